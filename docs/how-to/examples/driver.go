// A driver: a client that only remembers what it was asked to send.
package main

import (
	"encoding/json"
	"os"
)

func main() {
	type object map[string]any
	timeline, in, out := []object{}, json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	out.Encode(object{"type": "my-client", "version": "1.0", "actions": []string{"send_message", "get_timeline"}})
	var asked struct{ ID int; Action string; Data struct{ Message string } }
	for in.Decode(&asked) == nil {
		switch asked.Action {
		case "send_message":
			timeline = append(timeline, object{"user": "@me:here", "message": asked.Data.Message})
			out.Encode(object{"id": asked.ID, "response": "sent"})
		case "get_timeline":
			out.Encode(object{"id": asked.ID, "response": object{"timeline": timeline}})
		}
	}
}
