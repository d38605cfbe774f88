package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

// room is what the sync has shown of a room.
type room struct {
	state    map[string]*event.Event // by type|state key
	timeline []*message
	earlier  string // where older messages are read from
	typing   []id.UserID
	read     map[id.UserID]id.EventID
	// Reactions by their own event id, to find them when they are redacted.
	reactions map[id.EventID]reaction
}

func (c *client) room(room_id id.RoomID) *room {
	found := c.rooms[room_id]
	if found == nil {
		found = &room{
			state: map[string]*event.Event{}, read: map[id.UserID]id.EventID{}, reactions: map[id.EventID]reaction{},
		}
		c.rooms[room_id] = found
	}
	return found
}

func (r *room) content(kind event.Type, key string) *event.Content {
	if found := r.state[kind.Type+"|"+key]; found != nil {
		return &found.Content
	}
	return nil
}

func (r *room) membership(user id.UserID) event.Membership {
	if content := r.content(event.StateMember, user.String()); content != nil {
		return content.AsMember().Membership
	}
	return event.MembershipLeave
}

func (r *room) name() string {
	if content := r.content(event.StateRoomName, ""); content != nil {
		return content.AsRoomName().Name
	}
	return ""
}

func (r *room) encrypted() bool { return r.content(event.StateEncryption, "") != nil }

// follow keeps what the sync brings.
func (c *client) follow(syncer *mautrix.DefaultSyncer) {
	syncer.OnEvent(func(_ context.Context, evt *event.Event) {
		if evt.StateKey == nil {
			return
		}
		c.Lock()
		defer c.Unlock()
		c.room(evt.RoomID).state[evt.Type.Type+"|"+*evt.StateKey] = evt
		if evt.Type == event.StateMember && *evt.StateKey == c.session.UserID.String() {
			c.invites = slices.DeleteFunc(c.invites, func(invite id.RoomID) bool { return invite == evt.RoomID })
			if evt.Content.AsMember().Membership == event.MembershipInvite {
				c.invites = append(c.invites, evt.RoomID)
			}
		}
	})
	for _, kind := range []event.Type{event.EventEncrypted, event.EventMessage, event.EventReaction, event.EventRedaction} {
		syncer.OnEventType(kind, func(_ context.Context, evt *event.Event) { c.take(evt, false) })
	}
	syncer.OnEventType(event.EphemeralEventTyping, func(_ context.Context, evt *event.Event) {
		c.Lock()
		defer c.Unlock()
		c.room(evt.RoomID).typing = evt.Content.AsTyping().UserIDs
	})
	syncer.OnEventType(event.EphemeralEventReceipt, func(_ context.Context, evt *event.Event) {
		c.Lock()
		defer c.Unlock()
		for eventID, receipts := range *evt.Content.AsReceipt() {
			for user := range receipts[event.ReceiptTypeRead] {
				c.room(evt.RoomID).read[user] = eventID
			}
		}
	})
	syncer.OnSync(func(_ context.Context, response *mautrix.RespSync, _ string) bool {
		c.Lock()
		defer c.Unlock()
		for roomID, joined := range response.Rooms.Join {
			if found := c.room(roomID); found.earlier == "" {
				found.earlier = joined.Timeline.PrevBatch
			}
		}
		return true
	})
}

func createRoom(c *client, d data) (any, error) {
	encrypted := d.Encrypted == nil || *d.Encrypted
	asked := &mautrix.ReqCreateRoom{
		Name: d.Name, Topic: d.Topic, Preset: "private_chat", RoomVersion: id.RoomVersion(d.RoomVersion),
	}
	return nil, c.create(asked, encrypted)
}

func createDM(c *client, d data) (any, error) {
	user := full(d.UserID)
	asked := &mautrix.ReqCreateRoom{IsDirect: true, Invite: []id.UserID{user}, Preset: "trusted_private_chat"}
	if err := c.create(asked, true); err != nil {
		return nil, err
	}
	direct := map[id.UserID][]id.RoomID{}
	if err := c.matrix.GetAccountData(c.ctx, "m.direct", &direct); err != nil && !errors.Is(err, mautrix.MNotFound) {
		return nil, err
	}
	direct[user] = append(direct[user], c.open)
	if err := c.matrix.SetAccountData(c.ctx, "m.direct", direct); err != nil {
		return nil, err
	}
	return nil, c.member(user, "to be invited", func(is event.Membership) bool { return is == event.MembershipInvite })
}

func (c *client) create(asked *mautrix.ReqCreateRoom, encrypted bool) error {
	if encrypted {
		content := event.Content{Parsed: &event.EncryptionEventContent{Algorithm: id.AlgorithmMegolmV1}}
		asked.InitialState = []*event.Event{{Type: event.StateEncryption, Content: content}}
	}
	created, err := c.matrix.CreateRoom(c.ctx, asked)
	if err != nil {
		return err
	}
	if err = c.show(created.RoomID); err != nil {
		return err
	}
	return c.until("the complete state of the new room", func() bool {
		r := c.room(c.open)
		return r.encrypted() == encrypted && r.name() == asked.Name
	}, nil)
}

// show waits until a room is joined, and opens it.
func (c *client) show(roomID id.RoomID) error {
	err := c.until(fmt.Sprintf("to be in %s", roomID), func() bool {
		return c.room(roomID).membership(c.session.UserID) == event.MembershipJoin
	}, nil)
	if err == nil {
		c.open = roomID
	}
	return err
}

func openRoom(c *client, d data) (any, error) {
	var found id.RoomID
	err := c.until("a room named "+d.Name, func() bool {
		for roomID, r := range c.rooms {
			if r.name() == d.Name && r.membership(c.session.UserID) == event.MembershipJoin {
				found = roomID
			}
		}
		return found != ""
	}, nil)
	if err != nil {
		return nil, err
	}
	return nil, c.show(found)
}

func getRoom(c *client, _ data) (any, error) {
	if c.open == "" {
		return nil, errNoRoom
	}
	c.Lock()
	defer c.Unlock()
	r := c.room(c.open)
	members := object{}
	levels := &event.PowerLevelsEventContent{}
	if content := r.content(event.StatePowerLevels, ""); content != nil {
		levels = content.AsPowerLevels()
	}
	for _, evt := range r.state {
		if evt.Type == event.StateMember {
			user, content := id.UserID(*evt.StateKey), evt.Content.AsMember()
			members[user.String()] = object{
				"membership":   content.Membership,
				"display_name": content.Displayname,
				"power_level":  levels.GetUserLevel(user),
			}
		}
	}
	shown := object{"room_id": c.open, "name": r.name(), "encrypted": r.encrypted(), "members": members}
	if content := r.content(event.StateTopic, ""); content != nil {
		shown["topic"] = content.AsTopic().Topic
	}
	if content := r.content(event.StateCreate, ""); content != nil {
		shown["version"] = content.AsCreate().RoomVersion
	}
	if content := r.content(event.StateHistoryVisibility, ""); content != nil {
		shown["history_visibility"] = content.AsHistoryVisibility().HistoryVisibility
	}
	if content := r.content(event.StateTombstone, ""); content != nil {
		shown["successor"] = content.AsTombstone().ReplacementRoom
	}
	return object{"room": shown}, nil
}

func inviteUser(c *client, d data) (any, error) {
	user := full(d.UserID)
	if _, err := c.matrix.InviteUser(c.ctx, c.open, &mautrix.ReqInviteUser{UserID: user}); err != nil {
		return nil, err
	}
	return nil, c.member(user, "to be invited", func(is event.Membership) bool { return is == event.MembershipInvite })
}

func getInvites(c *client, _ data) (any, error) {
	c.Lock()
	defer c.Unlock()
	invites := []object{}
	for _, roomID := range c.invites {
		r := c.room(roomID)
		inviter := r.state[event.StateMember.Type+"|"+c.session.UserID.String()].Sender
		invites = append(invites, object{"room_id": roomID, "name": r.name(), "inviter": inviter})
	}
	return object{"invites": invites}, nil
}

// invited waits for an invite: to a room, or the latest.
func (c *client) invited(d data) (found id.RoomID, err error) {
	err = c.until("an invite "+d.RoomID, func() bool {
		for _, roomID := range c.invites {
			if d.RoomID == "" || d.RoomID == roomID.String() {
				found = roomID
			}
		}
		return found != ""
	}, nil)
	return found, err
}

func acceptInvite(c *client, d data) (any, error) {
	roomID, err := c.invited(d)
	if err != nil {
		return nil, err
	}
	if _, err = c.matrix.JoinRoomByID(c.ctx, roomID); err != nil {
		return nil, err
	}
	return nil, c.show(roomID)
}

func declineInvite(c *client, d data) (any, error) {
	roomID, err := c.invited(d)
	if err != nil {
		return nil, err
	}
	_, err = c.matrix.LeaveRoom(c.ctx, roomID)
	return nil, err
}

func leaveRoom(c *client, _ data) (any, error) {
	_, err := c.matrix.LeaveRoom(c.ctx, c.open)
	c.open = ""
	return nil, err
}

func kickUser(c *client, d data) (any, error) {
	user := full(d.UserID)
	if _, err := c.matrix.KickUser(c.ctx, c.open, &mautrix.ReqKickUser{UserID: user, Reason: d.Reason}); err != nil {
		return nil, err
	}
	return nil, c.member(user, "to be removed", func(is event.Membership) bool { return is == event.MembershipLeave })
}

func banUser(c *client, d data) (any, error) {
	user := full(d.UserID)
	if _, err := c.matrix.BanUser(c.ctx, c.open, &mautrix.ReqBanUser{UserID: user, Reason: d.Reason}); err != nil {
		return nil, err
	}
	return nil, c.member(user, "to be banned", func(is event.Membership) bool { return is == event.MembershipBan })
}

func (c *client) member(user id.UserID, what string, holds func(event.Membership) bool) error {
	seen := func() string { return string(c.room(c.open).membership(user)) }
	return c.until(fmt.Sprintf("%s %s", user, what), func() bool { return holds(c.room(c.open).membership(user)) }, seen)
}

func setPowerLevel(c *client, d data) (any, error) {
	user := full(d.UserID)
	levels := &event.PowerLevelsEventContent{}
	if err := c.matrix.StateEvent(c.ctx, c.open, event.StatePowerLevels, "", levels); err != nil {
		return nil, err
	}
	levels.SetUserLevel(user, d.Level)
	if _, err := c.matrix.SendStateEvent(c.ctx, c.open, event.StatePowerLevels, "", levels); err != nil {
		return nil, err
	}
	return nil, c.until(fmt.Sprintf("%s to have power level %d", user, d.Level), func() bool {
		content := c.room(c.open).content(event.StatePowerLevels, "")
		return content != nil && content.AsPowerLevels().GetUserLevel(user) == d.Level
	}, nil)
}

func changeHistoryVisibility(c *client, d data) (any, error) {
	content := object{"history_visibility": d.HistoryVisibility}
	if _, err := c.matrix.SendStateEvent(c.ctx, c.open, event.StateHistoryVisibility, "", content); err != nil {
		return nil, err
	}
	return nil, c.until("history visibility "+d.HistoryVisibility, func() bool {
		content := c.room(c.open).content(event.StateHistoryVisibility, "")
		return content != nil && string(content.AsHistoryVisibility().HistoryVisibility) == d.HistoryVisibility
	}, nil)
}

func upgradeRoom(c *client, d data) (any, error) {
	path := c.matrix.BuildClientURL("v3", "rooms", c.open, "upgrade")
	if _, err := c.matrix.MakeRequest(c.ctx, "POST", path, object{"new_version": d.Version}, nil); err != nil {
		return nil, err
	}
	return nil, c.until("the tombstone of the room", func() bool {
		return c.room(c.open).content(event.StateTombstone, "") != nil
	}, nil)
}
