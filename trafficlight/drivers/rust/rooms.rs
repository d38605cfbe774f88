//! Rooms, their members and their state.

use matrix_sdk::{
    Room, RoomMemberships,
    ruma::{
        Int, RoomId, UserId,
        api::client::room::{create_room, upgrade_room},
        events::{
            EmptyStateKey, InitialStateEvent,
            room::{
                encryption::RoomEncryptionEventContent,
                history_visibility::RoomHistoryVisibilityEventContent, member::MembershipState,
                power_levels::UserPowerLevel,
            },
        },
    },
};
use serde_json::{Map, json};

use crate::{
    Answer, Data, Result,
    client::{Device, until, user},
};

/// Room version 12 gives its creators an infinite power level, which JSON cannot carry.
const INFINITE: i64 = (1 << 53) - 1;

impl Device {
    pub async fn create_room(&mut self, data: &Data) -> Answer {
        let encrypted = data.encrypted.unwrap_or(true);
        let mut request = create_room::v3::Request::new();
        request.name = Some(data.name.clone());
        request.topic = data.topic.clone();
        request.preset = Some(create_room::v3::RoomPreset::PrivateChat);
        request.room_version = data.room_version.as_deref().map(TryInto::try_into).transpose()?;
        if encrypted {
            let content = RoomEncryptionEventContent::with_recommended_defaults();
            request.initial_state = vec![InitialStateEvent::new(EmptyStateKey, content).to_raw_any()];
        }
        let room = self.client()?.create_room(request).await?;
        let complete = async || {
            let named = room.name().as_deref() == Some(data.name.as_str());
            Ok((named && room.latest_encryption_state().await?.is_encrypted() == encrypted).then_some(()))
        };
        until("the complete state of the new room", complete, async || Ok(format!("{:?}", room.name())))
            .await?;
        self.show(room.room_id()).await
    }

    pub async fn create_dm(&mut self, data: &Data) -> Answer {
        let user = user(data)?;
        let room = self.client()?.create_dm(&user).await?;
        self.show(room.room_id()).await?;
        self.member(&user, MembershipState::Invite).await
    }

    pub async fn open_room(&mut self, data: &Data) -> Answer {
        let client = self.client()?;
        let named = async || {
            let mut rooms = client.joined_rooms().into_iter().rev();
            Ok(rooms.find(|room| room.name().as_deref() == Some(data.name.as_str())))
        };
        let names = async || {
            let names: Vec<_> = client.joined_rooms().iter().filter_map(|room| room.name()).collect();
            Ok(format!("{names:?}"))
        };
        let room = until(format!("a room named {}", data.name), named, names).await?;
        self.show(room.room_id()).await
    }

    pub async fn get_room(&mut self, _: &Data) -> Answer {
        let room = self.opened()?;
        let mut members = Map::new();
        for member in room.members_no_sync(RoomMemberships::all()).await? {
            let level = match member.power_level() {
                UserPowerLevel::Int(level) => level.into(),
                _ => INFINITE,
            };
            let shown = json!({
                "membership": member.membership().as_str(),
                "display_name": member.display_name().unwrap_or_default(),
                "power_level": level,
            });
            members.insert(member.user_id().to_string(), shown);
        }
        let mut shown = json!({
            "room_id": room.room_id(),
            "name": room.name().unwrap_or_default(),
            "topic": room.topic().unwrap_or_default(),
            "encrypted": room.latest_encryption_state().await?.is_encrypted(),
            "history_visibility": room.history_visibility_or_default().as_str(),
            "members": members,
        });
        if let Some(version) = room.version() {
            shown["version"] = json!(version.as_str());
        }
        if let Some(successor) = room.successor_room() {
            shown["successor"] = json!(successor.room_id);
        }
        Ok(json!({"room": shown}))
    }

    pub async fn invite_user(&mut self, data: &Data) -> Answer {
        let user = user(data)?;
        self.opened()?.invite_user_by_id(&user).await?;
        self.member(&user, MembershipState::Invite).await
    }

    pub async fn get_invites(&mut self, _: &Data) -> Answer {
        let own = self.own()?;
        let mut invites = vec![];
        for room in self.client()?.invited_rooms() {
            let invited = room.get_member_no_sync(own).await?.ok_or("an invite has no event")?;
            invites.push(json!({
                "room_id": room.room_id(),
                "name": room.name().unwrap_or_default(),
                "inviter": invited.event().sender(),
            }));
        }
        Ok(json!({"invites": invites}))
    }

    pub async fn accept_invite(&mut self, data: &Data) -> Answer {
        let room = self.invited(data).await?;
        room.join().await?;
        self.show(room.room_id()).await
    }

    pub async fn decline_invite(&mut self, data: &Data) -> Answer {
        self.invited(data).await?.leave().await?;
        Ok(json!(null))
    }

    pub async fn leave_room(&mut self, _: &Data) -> Answer {
        self.opened()?.leave().await?;
        self.room = None;
        Ok(json!(null))
    }

    pub async fn kick_user(&mut self, data: &Data) -> Answer {
        let user = user(data)?;
        self.opened()?.kick_user(&user, data.reason.as_deref()).await?;
        self.member(&user, MembershipState::Leave).await
    }

    pub async fn ban_user(&mut self, data: &Data) -> Answer {
        let user = user(data)?;
        self.opened()?.ban_user(&user, data.reason.as_deref()).await?;
        self.member(&user, MembershipState::Ban).await
    }

    pub async fn set_power_level(&mut self, data: &Data) -> Answer {
        let (user, level) = (user(data)?, Int::from(data.level));
        let room = self.opened()?;
        room.update_power_levels(vec![(&user, level)]).await?;
        let holds = async || Ok((room.get_user_power_level(&user).await? == level).then_some(()));
        let what = format!("{user} to have power level {level}");
        until(what, holds, async || Ok(format!("{:?}", room.get_user_power_level(&user).await?))).await?;
        Ok(json!(null))
    }

    pub async fn upgrade_room(&mut self, data: &Data) -> Answer {
        let room = self.opened()?;
        let version = data.version.as_str().try_into()?;
        let request = upgrade_room::v3::Request::new(room.room_id().to_owned(), version);
        self.client()?.send(request).await?;
        until("the tombstone of the room", async || Ok(room.successor_room()), nothing).await?;
        Ok(json!(null))
    }

    pub async fn change_room_history_visibility(&mut self, data: &Data) -> Answer {
        let room = self.opened()?;
        let wanted = data.history_visibility.as_str();
        room.send_state_event(RoomHistoryVisibilityEventContent::new(wanted.into())).await?;
        let seen = async || Ok(room.history_visibility_or_default().to_string());
        let holds = async || Ok((seen().await? == wanted).then_some(()));
        until(format!("history visibility {wanted}"), holds, seen).await?;
        Ok(json!(null))
    }

    /// Wait until a room is joined, and open it.
    async fn show(&mut self, id: &RoomId) -> Answer {
        let client = self.client()?;
        let own = self.own()?;
        // The membership comes by sync, with all the state; a joined room may still be without it.
        let joined = async || match client.get_room(id) {
            Some(room) if membership(&room, own).await? == MembershipState::Join => Ok(Some(room)),
            _ => Ok(None),
        };
        self.room = Some(until(format!("to be in {id}"), joined, nothing).await?);
        Ok(json!(null))
    }

    /// Wait for an invite: to a room, or the latest.
    async fn invited(&self, data: &Data) -> Result<Room> {
        let client = self.client()?;
        let wanted = |room: &Room| data.room_id.as_deref().is_none_or(|id| room.room_id() == id);
        // A room is listed before its events are stored, and without the inviter a join takes no keys of the history.
        let waiting = async || {
            let Some(room) = client.invited_rooms().into_iter().rfind(wanted) else { return Ok(None) };
            Ok(room.invite_details().await.is_ok().then_some(room))
        };
        until(format!("an invite {}", data.room_id.as_deref().unwrap_or_default()), waiting, nothing).await
    }

    async fn member(&self, user: &UserId, wanted: MembershipState) -> Answer {
        let room = self.opened()?;
        let holds = async || Ok((membership(room, user).await? == wanted).then_some(()));
        let what = format!("the membership {wanted} of {user}");
        until(what, holds, async || Ok(membership(room, user).await?.to_string())).await?;
        Ok(json!(null))
    }
}

async fn membership(room: &Room, user: &UserId) -> Result<MembershipState> {
    let member = room.get_member_no_sync(user).await?;
    Ok(member.map_or(MembershipState::Leave, |member| member.membership().clone()))
}

/// What is there instead, if nothing tells.
pub async fn nothing() -> Result<String> {
    Ok("nothing of it".to_owned())
}
