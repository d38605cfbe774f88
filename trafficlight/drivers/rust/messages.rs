//! Messages: sending, and what the timeline shows.

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use matrix_sdk::{
    attachment::AttachmentConfig,
    deserialized_responses::{EncryptionInfo, ShieldState, TimelineEventKind},
    event_cache::RoomEventCache,
    media::{MediaFormat, MediaRequestParameters},
    room::{
        Receipts,
        edit::EditedContent,
        reply::{EnforceThread, Reply},
    },
    ruma::{
        EventId, OwnedEventId,
        events::{
            AnyMessageLikeEventContent,
            reaction::ReactionEventContent,
            receipt::{ReceiptThread, ReceiptType},
            relation::Annotation,
            room::{
                MediaSource,
                message::{
                    AddMentions, ReplyWithinThread, RoomMessageEventContent,
                    RoomMessageEventContentWithoutRelation,
                },
            },
        },
    },
};
use serde_json::{Value, json};

use crate::{
    Answer, Data, Result,
    client::{Device, until},
};

/// What the timeline shows at one place.
struct Entry {
    id: OwnedEventId,
    sender: String,
    content: Value,
    encrypted: bool,
    /// The warning about the sender, if the event was decrypted.
    shield: Option<&'static str>,
    undecryptable: Option<String>,
    edited: bool,
    redacted: bool,
}

impl Entry {
    fn body(&self) -> Option<&str> {
        self.content["body"].as_str().filter(|_| !self.redacted && self.undecryptable.is_none())
    }

    fn kind(&self) -> &'static str {
        match (self.body(), self.content["msgtype"].as_str()) {
            (Some(_), Some("m.text" | "m.notice" | "m.emote")) => "text",
            (Some(_), Some("m.image")) => "image",
            (Some(_), Some("m.file")) => "file",
            _ => "other",
        }
    }
}

/// The senders of each reaction to each event.
type Reactions = BTreeMap<String, BTreeMap<String, Vec<String>>>;

impl Device {
    pub async fn send_message(&mut self, data: &Data) -> Answer {
        self.send(RoomMessageEventContent::text_plain(&data.message).into()).await
    }

    pub async fn edit_message(&mut self, data: &Data) -> Answer {
        let edited = EditedContent::RoomMessage(text(data));
        let content = self.opened()?.make_edit_event(&event_id(data)?, edited).await?;
        self.send(content).await
    }

    pub async fn send_reply(&mut self, data: &Data) -> Answer {
        self.reply(data, EnforceThread::MaybeThreaded).await
    }

    pub async fn send_in_thread(&mut self, data: &Data) -> Answer {
        self.reply(data, EnforceThread::Threaded(ReplyWithinThread::No)).await
    }

    async fn reply(&self, data: &Data, enforce_thread: EnforceThread) -> Answer {
        let reply = Reply { event_id: event_id(data)?, enforce_thread, add_mentions: AddMentions::Yes };
        let content = self.opened()?.make_reply_event(text(data), reply).await?;
        self.send(content.into()).await
    }

    pub async fn send_reaction(&mut self, data: &Data) -> Answer {
        let relation = Annotation::new(event_id(data)?, data.key.clone());
        self.send(ReactionEventContent::new(relation).into()).await
    }

    async fn send(&self, content: AnyMessageLikeEventContent) -> Answer {
        self.opened()?.send(content).await?;
        Ok(json!(null))
    }

    pub async fn redact_event(&mut self, data: &Data) -> Answer {
        self.opened()?.redact(&event_id(data)?, data.reason.as_deref(), None).await?;
        Ok(json!(null))
    }

    pub async fn send_read_receipt(&mut self, data: &Data) -> Answer {
        let receipts = Receipts::new().public_read_receipt(event_id(data)?);
        self.opened()?.send_multiple_receipts(receipts).await?;
        Ok(json!(null))
    }

    pub async fn set_typing(&mut self, data: &Data) -> Answer {
        self.opened()?.typing_notice(data.typing).await?;
        Ok(json!(null))
    }

    pub async fn get_typing(&mut self, _: &Data) -> Answer {
        let (room, own) = (self.opened()?.room_id(), self.own()?);
        let typing = self.seen.lock().unwrap().typing.get(room).cloned().unwrap_or_default();
        let others: Vec<_> = typing.into_iter().filter(|user| user != own).collect();
        Ok(json!({"users": others}))
    }

    pub async fn send_file(&mut self, data: &Data) -> Answer {
        let content = BASE64_STANDARD.decode(&data.content)?;
        let kind = data.content_type.parse()?;
        self.opened()?.send_attachment(&data.name, &kind, content, AttachmentConfig::new()).await?;
        Ok(json!(null))
    }

    pub async fn get_file(&mut self, data: &Data) -> Answer {
        let readable = async || {
            let (entries, _) = self.timeline().await?;
            Ok(entries.into_iter().find(|one| one.id == data.event_id && one.body().is_some()))
        };
        let what = format!("the event {}, decrypted", data.event_id);
        let content = until(what, readable, async || self.ending().await).await?.content;
        let source: MediaSource = serde_json::from_value(content.clone())?;
        let request = MediaRequestParameters { source, format: MediaFormat::File };
        let bytes = self.client()?.media().get_media_content(&request, false).await?;
        let name = content["filename"].as_str().or(content["body"].as_str());
        let kind = content["info"]["mimetype"].as_str().unwrap_or("application/octet-stream");
        Ok(json!({"file": {"name": name, "content_type": kind, "content": BASE64_STANDARD.encode(bytes)}}))
    }

    pub async fn load_earlier(&mut self, _: &Data) -> Answer {
        let loaded = self.cache().await?.pagination().run_backwards_once(50).await?;
        Ok(json!({"more": !loaded.reached_start}))
    }

    pub async fn verify_message_in_timeline(&mut self, data: &Data) -> Answer {
        let message = data.message.as_str();
        let mut looks = 0;
        let shown = async || {
            let (entries, _) = self.timeline().await?;
            let found = entries.into_iter().find(|one| one.body() == Some(message));
            looks += 1;
            if found.is_none() && looks % 100 == 5 {
                // It may be older than what the first sync brought.
                self.cache().await?.pagination().run_backwards_once(50).await?;
            }
            Ok(found)
        };
        let found = until(format!("the message {message}"), shown, async || self.ending().await).await?;
        if !found.encrypted && self.opened()?.latest_encryption_state().await?.is_encrypted() {
            return Err(format!("{message} arrived unencrypted in an encrypted room").into());
        }
        Ok(json!(null))
    }

    pub async fn verify_last_message_is_utd(&mut self, _: &Data) -> Answer {
        self.last("an undecryptable last message", |last| last.undecryptable.is_some()).await
    }

    pub async fn verify_last_message_is_trusted(&mut self, _: &Data) -> Answer {
        self.last("a trusted last message", |last| last.shield == Some("none")).await
    }

    async fn last(&self, what: &str, holds: impl Fn(&Entry) -> bool) -> Answer {
        let seen = async || Ok(self.timeline().await?.0.pop().filter(&holds));
        until(what, seen, async || self.ending().await).await?;
        Ok(json!(null))
    }

    pub async fn get_timeline(&mut self, _: &Data) -> Answer {
        let (entries, mut reactions) = self.timeline().await?;
        let mut shown = vec![];
        for one in entries {
            let issue = match (&one.undecryptable, one.encrypted || one.redacted) {
                (Some(_), _) => vec!["undecryptable"],
                (None, true) => vec![],
                (None, false) => vec!["unencrypted"],
            };
            let mut entry = json!({
                "user": one.sender,
                "message": one.body().unwrap_or_default(),
                "e2e_issues": issue,
                "event_id": one.id,
                "kind": one.kind(),
                "encrypted": one.encrypted,
                "edited": one.edited,
                "redacted": one.redacted,
                "reactions": reactions.remove(one.id.as_str()).unwrap_or_default(),
                "shield": one.shield.unwrap_or("grey"),
                "read_by": self.readers(&one.id).await?,
            });
            if let Some(reason) = one.undecryptable {
                entry["undecryptable"] = json!(reason);
            }
            let relation = &one.content["m.relates_to"];
            if let Some(id) = relation["m.in_reply_to"]["event_id"].as_str()
                && relation["is_falling_back"] != true
            {
                entry["reply_to"] = json!(id);
            }
            if relation["rel_type"] == "m.thread" {
                entry["thread"] = relation["event_id"].clone();
            }
            shown.push(entry);
        }
        Ok(json!({"timeline": shown}))
    }

    async fn cache(&self) -> Result<RoomEventCache> {
        Ok(self.opened()?.event_cache().await?.0)
    }

    /// Return what the timeline shows, oldest first, and the reactions.
    async fn timeline(&self) -> Result<(Vec<Entry>, Reactions)> {
        let (mut entries, mut reactions) = (Vec::<Entry>::new(), Reactions::new());
        for event in self.cache().await?.events().await? {
            let raw: Value = serde_json::from_str(event.raw().json().get())?;
            let (Some(id), Some(sender)) = (event.event_id(), raw["sender"].as_str()) else { continue };
            let (content, relation) = (&raw["content"], &raw["content"]["m.relates_to"]);
            match raw["type"].as_str() {
                Some("m.reaction") => {
                    if let (Some(to), Some(key)) = (relation["event_id"].as_str(), relation["key"].as_str()) {
                        let by =
                            reactions.entry(to.to_owned()).or_default().entry(key.to_owned()).or_default();
                        by.push(sender.to_owned());
                    }
                    continue;
                }
                Some("m.room.message") if content["msgtype"] == "m.key.verification.request" => continue,
                Some("m.room.message" | "m.room.encrypted") => {}
                _ => continue,
            }
            if relation["rel_type"] == "m.replace" {
                let edits =
                    |one: &&mut Entry| relation["event_id"] == one.id.as_str() && one.sender == sender;
                if let (Some(old), Some(new)) = (entries.iter_mut().find(edits), content.get("m.new_content"))
                {
                    // An edit keeps the relation of what it replaces.
                    let relation = old.content["m.relates_to"].take();
                    (old.content, old.edited) = (new.clone(), true);
                    old.content["m.relates_to"] = relation;
                }
                continue;
            }
            let redacted = !raw["unsigned"]["redacted_because"].is_null();
            let (shield, undecryptable) = match &event.kind {
                TimelineEventKind::Decrypted(decrypted) => {
                    (Some(self.shield(&decrypted.encryption_info).await?), None)
                }
                TimelineEventKind::UnableToDecrypt { utd_info, .. } if !redacted => {
                    (None, Some(format!("{:?}", utd_info.reason)))
                }
                _ => (None, None),
            };
            let encrypted = shield.is_some() || raw["type"] == "m.room.encrypted";
            let (sender, content) = (sender.to_owned(), content.clone());
            entries.push(Entry {
                id,
                sender,
                content,
                encrypted,
                shield,
                undecryptable,
                edited: false,
                redacted,
            });
        }
        Ok((entries, reactions))
    }

    /// Return the warning about a message's sender, judged now and not when it was decrypted.
    async fn shield(&self, then: &EncryptionInfo) -> Result<&'static str> {
        let now = match then.session_id() {
            Some(session) => self.opened()?.get_encryption_info(session, &then.sender).await,
            None => None,
        };
        let state = now.map_or_else(|| then.verification_state.clone(), |now| now.verification_state.clone());
        Ok(match state.to_shield_state_lax() {
            ShieldState::None => "none",
            ShieldState::Grey { .. } => "grey",
            ShieldState::Red { .. } => "red",
        })
    }

    async fn readers(&self, event: &EventId) -> Result<Vec<String>> {
        let mut readers = vec![];
        for thread in [ReceiptThread::Unthreaded, ReceiptThread::Main] {
            let receipts = self.opened()?.load_event_receipts(ReceiptType::Read, thread, event).await?;
            readers.extend(receipts.into_iter().map(|(user, _)| user.to_string()));
        }
        readers.sort();
        readers.dedup();
        Ok(readers)
    }

    /// Return the end of the timeline, in words.
    async fn ending(&self) -> Result<String> {
        let (entries, _) = self.timeline().await?;
        let words = entries.iter().rev().take(5).rev().map(|one| {
            let what = match (&one.undecryptable, one.body()) {
                (Some(reason), _) => format!("an undecryptable message ({reason})"),
                (None, Some(body)) => body.to_owned(),
                (None, None) => "a redacted message".to_owned(),
            };
            format!("{what} by {}", one.sender)
        });
        Ok(format!("the timeline, which ends with: {}", words.collect::<Vec<_>>().join("; ")))
    }
}

fn text(data: &Data) -> RoomMessageEventContentWithoutRelation {
    RoomMessageEventContentWithoutRelation::text_plain(&data.message)
}

fn event_id(data: &Data) -> Result<OwnedEventId> {
    Ok(EventId::parse(&data.event_id)?)
}
