// A driver: a client that only remembers what it was asked to send.
use serde_json::{json, Value};

fn main() {
    let mut timeline = vec![];
    println!("{}", json!({"type": "my-client", "version": "1.0", "actions": ["send_message", "get_timeline"]}));
    for line in std::io::stdin().lines() {
        let asked: Value = serde_json::from_str(&line.unwrap()).unwrap();
        match asked["action"].as_str() {
            Some("send_message") => {
                timeline.push(json!({"user": "@me:here", "message": asked["data"]["message"]}));
                println!("{}", json!({"id": asked["id"], "response": "sent"}));
            }
            Some("get_timeline") => println!("{}", json!({"id": asked["id"], "response": {"timeline": timeline}})),
            _ => {}
        }
    }
}
