// The driver of mautrix-go: reads one JSON object per line, performs it, writes one per line.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sort"

	"maunium.net/go/mautrix"
)

type object = map[string]any

// unsupported is an action that this client cannot perform, with the reason.
type unsupported string

func (reason unsupported) Error() string { return string(reason) }

type request struct {
	ID       json.RawMessage `json:"id"`
	Action   string          `json:"action"`
	Data     data            `json:"data"`
	Deadline float64         `json:"deadline"`
}

// data holds the fields of every action's data.
type data struct {
	Username          string                 `json:"username"`
	Password          string                 `json:"password"`
	Passphrase        string                 `json:"key_backup_passphrase"`
	HomeserverURL     struct{ Local string } `json:"homeserver_url"`
	Name              string                 `json:"name"`
	Topic             string                 `json:"topic"`
	Encrypted         *bool                  `json:"encrypted"`
	RoomVersion       string                 `json:"room_version"`
	Version           string                 `json:"version"`
	RoomID            string                 `json:"room_id"`
	UserID            string                 `json:"userId"`
	Reason            string                 `json:"reason"`
	Level             int                    `json:"level"`
	HistoryVisibility string                 `json:"historyVisibility"`
	Message           string                 `json:"message"`
	EventID           string                 `json:"event_id"`
	Key               string                 `json:"key"`
	Typing            bool                   `json:"typing"`
	ContentType       string                 `json:"content_type"`
	Content           string                 `json:"content"`
	DeviceID          string                 `json:"device_id"`
	RecoveryKey       string                 `json:"recovery_key"`
	QRCode            []byte                 `json:"qr_code"`
	Milliseconds      int64                  `json:"milliseconds"`
}

type action func(c *client, d data) (any, error)

func main() {
	output := json.NewEncoder(os.Stdout)
	output.SetEscapeHTML(false)
	names := make([]string, 0, len(actions))
	for name := range actions {
		names = append(names, name)
	}
	sort.Strings(names)
	c := &client{storage: os.Getenv("TRAFFICLIGHT_STORAGE"), ctx: context.Background()}
	if err := c.resume(); err != nil {
		fmt.Fprintln(os.Stderr, "cannot resume the session:", err)
		os.Exit(1)
	}
	_ = output.Encode(object{"type": "mautrix-go", "version": mautrix.Version[1:], "actions": names})

	input := bufio.NewScanner(os.Stdin)
	input.Buffer(nil, 64<<20)
	for input.Scan() {
		var asked request
		if err := json.Unmarshal(input.Bytes(), &asked); err != nil {
			fmt.Fprintln(os.Stderr, "not a request:", err)
			continue
		}
		limitWaits(asked.Deadline)
		_ = output.Encode(answer(c, asked))
	}
	c.stop()
}

func answer(c *client, asked request) object {
	var response any
	err := error(unsupported("the driver of mautrix-go has no action " + asked.Action))
	switch perform := actions[asked.Action]; {
	case perform == nil:
	case c.matrix == nil && asked.Action != "register" && asked.Action != "login":
		err = errors.New("not logged in")
	default:
		c.syncing.Lock()
		c.syncing.Unlock() // It only waits.
		response, err = perform(c, asked.Data)
	}
	var reason unsupported
	switch {
	case errors.As(err, &reason):
		return object{"id": asked.ID, "error": object{"type": "unsupported", "details": err.Error()}}
	case err != nil:
		return object{"id": asked.ID, "error": object{"type": "action", "details": err.Error()}}
	case response == nil:
		response = asked.Action
	}
	return object{"id": asked.ID, "response": response}
}
