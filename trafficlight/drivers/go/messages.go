package main

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/crypto/attachment"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

var errNoRoom = errors.New("no room is open")

// message is one entry of a timeline.
type message struct {
	event         *event.Event
	content       *event.MessageEventContent // nil while it is not decrypted
	undecryptable string
	edited        bool
	redacted      bool
	reactions     map[string][]id.UserID
}

type reaction struct {
	to  id.EventID
	key string
	by  id.UserID
}

func (r *room) message(eventID id.EventID) *message {
	for _, one := range r.timeline {
		if one.event.ID == eventID {
			return one
		}
	}
	return nil
}

// take adds an event to its room's timeline; decrypted ones come twice, first encrypted.
func (c *client) take(evt *event.Event, first bool) {
	c.Lock()
	defer c.Unlock()
	r := c.room(evt.RoomID)
	switch evt.Type {
	case event.EventRedaction:
		r.redact(evt)
	case event.EventReaction:
		to := evt.Content.AsReaction().RelatesTo
		if to.EventID != "" {
			r.reactions[evt.ID] = reaction{to.EventID, to.Key, evt.Sender}
		}
	case event.EventEncrypted:
		relation := evt.Content.AsEncrypted().RelatesTo
		if r.message(evt.ID) == nil && (relation == nil || relation.Type != event.RelReplace) {
			r.add(&message{event: evt, undecryptable: "not decrypted yet"}, first)
		}
	case event.EventMessage:
		content := evt.Content.AsMessage()
		if content.MsgType == event.MsgVerificationRequest {
			r.timeline = slices.DeleteFunc(r.timeline, func(one *message) bool { return one.event.ID == evt.ID })
			return
		}
		if edited := content.RelatesTo.GetReplaceID(); edited != "" && content.NewContent != nil {
			if old := r.message(edited); old != nil && old.event.Sender == evt.Sender && old.content != nil {
				// An edit keeps the relation of what it replaces.
				relation := old.content.RelatesTo
				old.content, old.edited = content.NewContent, true
				old.content.RelatesTo = relation
			}
			return
		}
		redacted := evt.Unsigned.RedactedBecause != nil
		if old := r.message(evt.ID); old != nil {
			old.event, old.content, old.undecryptable = evt, content, ""
		} else {
			r.add(&message{event: evt, content: content, redacted: redacted}, first)
		}
	}
}

func (r *room) add(one *message, first bool) {
	if first {
		r.timeline = slices.Insert(r.timeline, 0, one)
	} else {
		r.timeline = append(r.timeline, one)
	}
}

func (r *room) redact(evt *event.Event) {
	redacted := evt.Redacts
	if redacted == "" {
		redacted = evt.Content.AsRedaction().Redacts
	}
	delete(r.reactions, redacted)
	if one := r.message(redacted); one != nil {
		one.redacted, one.undecryptable = true, ""
	}
}

// notDecrypted is called with an event that cannot be decrypted, once the client has stopped waiting for its key.
func (c *client) notDecrypted(evt *event.Event, problem error) {
	c.Lock()
	defer c.Unlock()
	if one := c.room(evt.RoomID).message(evt.ID); one != nil && one.content == nil {
		one.undecryptable = problem.Error()
	}
}

// decryptAgain tries what could not be decrypted, after keys came from elsewhere.
func (c *client) decryptAgain() {
	c.Lock()
	var failed []*event.Event
	for _, r := range c.rooms {
		for _, one := range r.timeline {
			if one.content == nil && !one.redacted {
				failed = append(failed, one.event)
			}
		}
	}
	c.Unlock()
	for _, evt := range failed {
		if decrypted, err := c.crypto.Decrypt(c.ctx, evt); err == nil {
			c.take(decrypted, false)
		}
	}
}

func (c *client) send(content *event.MessageEventContent) error {
	if c.open == "" {
		return errNoRoom
	}
	_, err := c.matrix.SendMessageEvent(c.ctx, c.open, event.EventMessage, content)
	return err
}

func text(body string) *event.MessageEventContent {
	return &event.MessageEventContent{MsgType: event.MsgText, Body: body}
}

func sendMessage(c *client, d data) (any, error) { return nil, c.send(text(d.Message)) }

func editMessage(c *client, d data) (any, error) {
	content := text(d.Message)
	content.SetEdit(id.EventID(d.EventID))
	return nil, c.send(content)
}

func sendReply(c *client, d data) (any, error) {
	content := text(d.Message)
	content.RelatesTo = (&event.RelatesTo{}).SetReplyTo(id.EventID(d.EventID))
	return nil, c.send(content)
}

func sendInThread(c *client, d data) (any, error) {
	content := text(d.Message)
	content.RelatesTo = &event.RelatesTo{Type: event.RelThread, EventID: id.EventID(d.EventID)}
	return nil, c.send(content)
}

func sendReaction(c *client, d data) (any, error) {
	_, err := c.matrix.SendReaction(c.ctx, c.open, id.EventID(d.EventID), d.Key)
	return nil, err
}

func redactEvent(c *client, d data) (any, error) {
	_, err := c.matrix.RedactEvent(c.ctx, c.open, id.EventID(d.EventID), mautrix.ReqRedact{Reason: d.Reason})
	return nil, err
}

func sendReadReceipt(c *client, d data) (any, error) {
	return nil, c.matrix.MarkRead(c.ctx, c.open, id.EventID(d.EventID))
}

func setTyping(c *client, d data) (any, error) {
	_, err := c.matrix.UserTyping(c.ctx, c.open, d.Typing, 30*time.Second)
	return nil, err
}

func getTyping(c *client, _ data) (any, error) {
	c.Lock()
	defer c.Unlock()
	others := []id.UserID{}
	for _, user := range c.room(c.open).typing {
		if user != c.session.UserID {
			others = append(others, user)
		}
	}
	return object{"users": others}, nil
}

func sendFile(c *client, d data) (any, error) {
	if c.open == "" {
		return nil, errNoRoom
	}
	bytes, err := base64.StdEncoding.DecodeString(d.Content)
	if err != nil {
		return nil, err
	}
	content := &event.MessageEventContent{
		MsgType: event.MsgFile, Body: d.Name, FileName: d.Name, Info: &event.FileInfo{MimeType: d.ContentType, Size: len(bytes)},
	}
	if strings.HasPrefix(d.ContentType, "image/") {
		content.MsgType = event.MsgImage
	}
	c.Lock()
	encrypted := c.room(c.open).encrypted()
	c.Unlock()
	sent, kind := bytes, d.ContentType
	var file *attachment.EncryptedFile
	if encrypted {
		file = attachment.NewEncryptedFile()
		sent, kind = file.Encrypt(bytes), "application/octet-stream"
	}
	uploaded, err := c.matrix.UploadBytes(c.ctx, sent, kind)
	if err != nil {
		return nil, err
	}
	if file == nil {
		content.URL = uploaded.ContentURI.CUString()
	} else {
		content.File = &event.EncryptedFileInfo{EncryptedFile: *file, URL: uploaded.ContentURI.CUString()}
	}
	return nil, c.send(content)
}

func getFile(c *client, d data) (any, error) {
	var content *event.MessageEventContent
	err := c.until("the event "+d.EventID+", decrypted", func() bool {
		one := c.room(c.open).message(id.EventID(d.EventID))
		if one != nil {
			content = one.content
		}
		return content != nil
	}, nil)
	if err != nil {
		return nil, err
	}
	address := content.URL
	if content.File != nil {
		address = content.File.URL
	}
	uri, err := address.Parse()
	if err != nil || uri.IsEmpty() {
		return nil, fmt.Errorf("the event %s has no file", d.EventID)
	}
	bytes, err := c.matrix.DownloadBytes(c.ctx, uri)
	if err != nil {
		return nil, err
	}
	if content.File != nil {
		if bytes, err = content.File.Decrypt(bytes); err != nil {
			return nil, err
		}
	}
	kind := "application/octet-stream"
	if content.Info != nil && content.Info.MimeType != "" {
		kind = content.Info.MimeType
	}
	file := object{"name": content.GetFileName(), "content_type": kind, "content": base64.StdEncoding.EncodeToString(bytes)}
	return object{"file": file}, nil
}

func loadEarlier(c *client, _ data) (any, error) {
	c.Lock()
	from := c.room(c.open).earlier
	c.Unlock()
	if from == "" {
		return object{"more": false}, nil
	}
	page, err := c.matrix.Messages(c.ctx, c.open, from, "", mautrix.DirectionBackward, nil, 50)
	if err != nil {
		return nil, err
	}
	for _, evt := range page.Chunk {
		if evt.StateKey != nil {
			continue
		}
		evt.RoomID = c.open
		_ = evt.Content.ParseRaw(evt.Type)
		c.take(evt, true)
	}
	c.Lock()
	c.room(c.open).earlier = page.End
	c.Unlock()
	c.decryptAgain()
	return object{"more": page.End != ""}, nil
}

func verifyMessage(c *client, d data) (any, error) {
	if c.open == "" {
		return nil, errNoRoom
	}
	plain := false
	err := c.until("the message "+d.Message, func() bool {
		r := c.room(c.open)
		for _, one := range r.timeline {
			if one.content != nil && !one.redacted && one.content.Body == d.Message {
				plain = r.encrypted() && !one.event.Mautrix.WasEncrypted
				return true
			}
		}
		return false
	}, c.shown)
	if err == nil && plain {
		err = fmt.Errorf("%s arrived unencrypted in an encrypted room", d.Message)
	}
	return nil, err
}

// last returns the last message; the mutex is held.
func (c *client) last() *message {
	if timeline := c.room(c.open).timeline; len(timeline) > 0 {
		return timeline[len(timeline)-1]
	}
	return nil
}

func verifyLastUndecryptable(c *client, _ data) (any, error) {
	// The client waits for a key before it says that there is none.
	return nil, c.until("an undecryptable last message", func() bool {
		one := c.last()
		return one != nil && one.content == nil && !one.redacted
	}, c.shown)
}

func verifyLastTrusted(c *client, _ data) (any, error) {
	return nil, c.until("a trusted last message", func() bool {
		one := c.last()
		return one != nil && one.content != nil && c.shield(one) == "none"
	}, c.shown)
}

// shown describes the end of the timeline; the mutex is held.
func (c *client) shown() string {
	timeline := c.room(c.open).timeline
	entries := []string{}
	for _, one := range timeline[max(0, len(timeline)-5):] {
		what := "a redacted message"
		if one.content != nil && !one.redacted {
			what = one.content.Body
		} else if !one.redacted {
			what = "an undecryptable message (" + one.undecryptable + ")"
		}
		entries = append(entries, fmt.Sprintf("%s by %s", what, one.event.Sender))
	}
	return "the timeline, which ends with: " + strings.Join(entries, "; ")
}

func getTimeline(c *client, _ data) (any, error) {
	if c.open == "" {
		return nil, errNoRoom
	}
	c.Lock()
	defer c.Unlock()
	r := c.room(c.open)
	entries := []object{}
	for _, one := range r.timeline {
		entries = append(entries, c.entry(r, one))
	}
	return object{"timeline": entries}, nil
}

func (c *client) entry(r *room, one *message) object {
	encrypted := one.event.Mautrix.WasEncrypted || one.content == nil
	shown := object{
		"user": one.event.Sender, "message": "", "e2e_issues": []string{}, "event_id": one.event.ID, "kind": "other",
		"encrypted": encrypted, "edited": one.edited, "redacted": one.redacted, "shield": c.shield(one),
	}
	reactions, readers := map[string][]id.UserID{}, []id.UserID{}
	for _, by := range r.reactions {
		if by.to == one.event.ID {
			reactions[by.key] = append(reactions[by.key], by.by)
		}
	}
	for user, at := range r.read {
		if at == one.event.ID {
			readers = append(readers, user)
		}
	}
	shown["reactions"], shown["read_by"] = reactions, readers
	if one.redacted {
		return shown
	}
	if one.content == nil {
		shown["undecryptable"], shown["e2e_issues"] = one.undecryptable, []string{"undecryptable"}
		return shown
	}
	if !encrypted {
		shown["e2e_issues"] = []string{"unencrypted"}
	}
	shown["message"] = one.content.Body
	switch one.content.MsgType {
	case event.MsgText, event.MsgNotice, event.MsgEmote:
		shown["kind"] = "text"
	case event.MsgImage, event.MsgFile:
		shown["kind"] = strings.TrimPrefix(string(one.content.MsgType), "m.")
	}
	if to := one.content.RelatesTo.GetNonFallbackReplyTo(); to != "" {
		shown["reply_to"] = to
	}
	if thread := one.content.RelatesTo.GetThreadParent(); thread != "" {
		shown["thread"] = thread
	}
	return shown
}

// shield returns the warning about a message's sender, judged now.
func (c *client) shield(one *message) string {
	device := one.event.Mautrix.TrustSource
	if device == nil {
		return "grey"
	}
	trust, err := c.crypto.Machine().ResolveTrustContext(c.ctx, device)
	switch {
	case err != nil || trust == id.TrustStateUnset:
		return "grey"
	case trust >= id.TrustStateCrossSignedTOFU:
		return "none"
	default:
		return "red"
	}
}
