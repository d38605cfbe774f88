#!/bin/bash
# A driver: a client that only remembers what it was asked to send.
timeline='[]'
echo '{"type": "my-client", "version": "1.0", "actions": ["send_message", "get_timeline"]}'
while read -r asked; do
  id=$(jq .id <<<"$asked")
  case $(jq -r .action <<<"$asked") in
    send_message)
      timeline=$(jq -c --argjson asked "$asked" '. + [{user: "@me:here", message: $asked.data.message}]' <<<"$timeline")
      echo "{\"id\": $id, \"response\": \"sent\"}" ;;
    get_timeline)
      echo "{\"id\": $id, \"response\": {\"timeline\": $timeline}}" ;;
  esac
done
