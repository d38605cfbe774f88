//! Verification, trust and key backup.

use std::{
    pin::pin,
    sync::{Arc, Mutex},
};

use futures_util::{FutureExt, StreamExt};
use matrix_sdk::{
    Client, RoomMemberships,
    encryption::{
        LocalTrust,
        identities::UserIdentity,
        verification::{
            SasState, SasVerification, Verification, VerificationRequest, VerificationRequestState,
        },
    },
    ruma::{
        UserId,
        events::{
            key::verification::request::ToDeviceKeyVerificationRequestEvent,
            room::message::{MessageType, OriginalSyncRoomMessageEvent},
        },
    },
};
use serde_json::{Value, json};

use crate::{
    Answer, Data, Result,
    client::{Device, Seen, until, user},
};

impl Device {
    /// Follow the verifications that others ask for, to the device and in rooms.
    pub fn notice_verifications(&self, client: &Client) {
        let seen = self.seen.clone();
        client.add_event_handler(
            move |event: ToDeviceKeyVerificationRequestEvent, client: Client| async move {
                asked(&seen, &client, &event.sender, event.content.transaction_id.as_str()).await;
            },
        );
        let seen = self.seen.clone();
        client.add_event_handler(move |event: OriginalSyncRoomMessageEvent, client: Client| async move {
            if matches!(event.content.msgtype, MessageType::VerificationRequest(_)) {
                asked(&seen, &client, &event.sender, event.event_id.as_str()).await;
            }
        });
    }

    pub async fn start_crosssign(&mut self, data: &Data) -> Answer {
        let user = if data.user.is_some() { user(data)? } else { self.own()?.to_owned() };
        let request = self.identity(&user).await?.request_verification().await?;
        follow(&self.seen, request);
        Ok(json!(null))
    }

    pub async fn accept_crosssign(&mut self, _: &Data) -> Answer {
        let asked = async || {
            let request = self.request().filter(|request| !request.we_started());
            Ok(request
                .filter(|request| matches!(request.state(), VerificationRequestState::Requested { .. })))
        };
        let request = until("a verification request", asked, async || self.phase()).await?;
        request.accept().await?;
        until(
            "the request to be ready",
            async || Ok(request.is_ready().then_some(())),
            async || self.phase(),
        )
        .await?;
        if let Some(room) = request.room_id().and_then(|id| self.client().ok()?.get_room(id)) {
            // matrix-js-sdk may take two events of one sync in any order: start when the first has arrived.
            let (cache, _guards) = room.event_cache().await?;
            let arrived = async || {
                let events = cache.events().await?;
                let ready = events.iter().any(|event| {
                    let text = event.raw().json().get();
                    text.contains("m.key.verification.ready") && text.contains(request.flow_id())
                });
                Ok(ready.then_some(()))
            };
            until("the request to be ready in its room", arrived, async || self.phase()).await?;
        }
        request.start_sas().await?;
        self.emoji().await?;
        Ok(json!(null))
    }

    pub async fn get_emoji(&mut self, _: &Data) -> Answer {
        let emoji = self.emoji().await?.emoji().ok_or("the verification has no emoji")?;
        let symbols: Vec<_> = emoji.iter().map(|one| one.symbol.replace('\u{FE0F}', "")).collect();
        Ok(json!({"emoji": symbols}))
    }

    pub async fn verify_crosssign_emoji(&mut self, _: &Data) -> Answer {
        let sas = self.emoji().await?;
        sas.confirm().await?;
        let (user, encryption) = (sas.other_user_id(), self.client()?.encryption());
        let verified = async || {
            if let Some(cancelled) = sas.cancel_info() {
                return Err(format!("the verification was cancelled: {}", cancelled.reason()).into());
            }
            if !sas.is_done() || !self.identity(user).await?.is_verified() {
                return Ok(None);
            }
            // Of two devices of one user, the one with the keys signs the other one after that.
            let keys = encryption.cross_signing_status().await;
            if sas.is_self_verification() && keys.is_some_and(|keys| keys.has_self_signing) {
                let other = encryption.get_device(user, sas.other_device().device_id()).await?;
                return Ok(other.filter(|other| other.is_cross_signed_by_owner()).map(|_| ()));
            }
            Ok(Some(()))
        };
        until(format!("{user} to be verified"), verified, async || self.phase()).await?;
        Ok(json!(null))
    }

    pub async fn reject_emoji(&mut self, _: &Data) -> Answer {
        self.emoji().await?.mismatch().await?;
        self.cancelled().await
    }

    pub async fn cancel_verification(&mut self, _: &Data) -> Answer {
        let pending =
            async || Ok(self.request().filter(|request| !request.is_done() && !request.is_cancelled()));
        until("a verification", pending, async || self.phase()).await?.cancel().await?;
        self.cancelled().await
    }

    pub async fn get_verification(&mut self, _: &Data) -> Answer {
        Ok(json!({"verification": self.state()}))
    }

    pub async fn get_trust(&mut self, data: &Data) -> Answer {
        Ok(json!({"trust": self.trust(&user(data)?).await?}))
    }

    pub async fn verify_trusted_device(&mut self, _: &Data) -> Answer {
        let own = self.own()?;
        let members = match &self.room {
            Some(room) => room.members_no_sync(RoomMemberships::JOIN).await?,
            None => vec![],
        };
        let user = members.iter().map(|member| member.user_id()).find(|user| *user != own).unwrap_or(own);
        let trusted = async || Ok((self.trust(user).await? == "verified").then_some(()));
        let seen = async || Ok(self.trust(user).await?.to_owned());
        until(format!("{user} to be verified"), trusted, seen).await?;
        Ok(json!(null))
    }

    pub async fn reset_identity(&mut self, _: &Data) -> Answer {
        use matrix_sdk::encryption::CrossSigningResetAuthType::Uiaa;

        let recovery = self.client()?.encryption().recovery();
        if let Some(reset) = recovery.reset_identity().await? {
            let Uiaa(asked) = reset.auth_type() else {
                return Err("the reset is not authorised by password".into());
            };
            reset.reset(Some(self.password(asked.session.clone())?)).await?;
        }
        Ok(json!(null))
    }

    pub async fn block_device(&mut self, data: &Data) -> Answer {
        let user = user(data)?;
        let device = self.client()?.encryption().get_device(&user, data.device_id.as_str().into()).await?;
        let device = device.ok_or_else(|| format!("{user} has no device {}", data.device_id))?;
        device.set_local_trust(LocalTrust::BlackListed).await?;
        Ok(json!(null))
    }

    pub async fn enable_key_backup(&mut self, data: &Data) -> Answer {
        self.back_up(data.key_backup_passphrase.as_deref()).await?;
        Ok(json!(null))
    }

    pub async fn create_key_backup(&mut self, _: &Data) -> Answer {
        Ok(json!({"recovery_key": self.back_up(None).await?}))
    }

    pub async fn restore_key_backup(&mut self, data: &Data) -> Answer {
        self.restore(&data.recovery_key).await?;
        Ok(json!(null))
    }

    pub async fn delete_key_backup(&mut self, _: &Data) -> Answer {
        self.client()?.encryption().recovery().disable().await?;
        Ok(json!(null))
    }

    /// Create a backup and secret storage, and return the recovery key.
    async fn back_up(&self, passphrase: Option<&str>) -> Result<String> {
        let encryption = self.client()?.encryption();
        let recovery = encryption.recovery();
        if encryption.backups().fetch_exists_on_server().await? {
            encryption.backups().disable_and_delete().await?;
        }
        let enable = recovery.enable().wait_for_backups_to_upload();
        Ok(match passphrase {
            Some(passphrase) => enable.with_passphrase(passphrase).await?,
            None => enable.await?,
        })
    }

    /// Take the identity and the room keys from secret storage and the backup.
    pub async fn restore(&self, secret: &str) -> Result<()> {
        let client = self.client()?;
        let encryption = client.encryption();
        encryption.recovery().recover(secret).await?;
        if !encryption.backups().are_enabled().await {
            return Err("the account has no key backup that the secret opens".into());
        }
        for room in client.joined_rooms() {
            encryption.backups().download_room_keys_for_room(room.room_id()).await?;
        }
        Ok(())
    }

    /// Fetch the identity of a user.
    async fn identity(&self, user: &UserId) -> Result<UserIdentity> {
        let found = self.client()?.encryption().request_user_identity(user).await?;
        found.ok_or_else(|| format!("{user} has no identity").into())
    }

    async fn trust(&self, user: &UserId) -> Result<&'static str> {
        let client = self.client()?;
        let Some(identity) = client.encryption().request_user_identity(user).await? else {
            return Ok("unknown");
        };
        if identity.is_verified() {
            return Ok("verified");
        }
        if identity.has_verification_violation() {
            return Ok("changed");
        }
        // Only rooms tell that an identity is not the one first seen; the first item is the present state.
        for room in client.joined_rooms() {
            let mut changes = pin!(room.subscribe_to_identity_status_changes().await?);
            let changed = changes.next().now_or_never().flatten().unwrap_or_default();
            if changed.iter().any(|change| change.user_id == user) {
                return Ok("changed");
            }
        }
        Ok("unverified")
    }

    fn request(&self) -> Option<VerificationRequest> {
        self.seen.lock().unwrap().request.clone()
    }

    /// Wait until the verification shows emoji; fail if it is cancelled.
    async fn emoji(&self) -> Result<SasVerification> {
        let shown = async || match self.request().map(|request| request.state()) {
            Some(VerificationRequestState::Cancelled(cancelled)) => {
                Err(format!("the verification was cancelled: {}", cancelled.cancel_code()).into())
            }
            Some(VerificationRequestState::Transitioned { verification: Verification::SasV1(sas) }) => {
                Ok(sas.emoji().is_some().then_some(sas))
            }
            _ => Ok(None),
        };
        until("emoji", shown, async || self.phase()).await
    }

    async fn cancelled(&self) -> Answer {
        let cancelled = async || Ok((self.state()["phase"] == "cancelled").then_some(()));
        until("the verification to be cancelled", cancelled, async || self.phase()).await?;
        Ok(json!(null))
    }

    fn phase(&self) -> Result<String> {
        Ok(format!("a verification with {}", self.state()))
    }

    /// Return the state of the latest verification.
    fn state(&self) -> Value {
        use VerificationRequestState::{Cancelled, Created, Done, Ready, Requested, Transitioned};

        let cancelled = |code: &str| json!({"phase": "cancelled", "cancel_code": code});
        let phase = match self.request().map(|request| request.state()) {
            None => "none",
            Some(Created { .. } | Requested { .. }) => "requested",
            Some(Ready { .. }) => "ready",
            Some(Done) => "done",
            Some(Cancelled(info)) => return cancelled(info.cancel_code().as_str()),
            Some(Transitioned { verification }) => match verification.cancel_info() {
                Some(info) => return cancelled(info.cancel_code().as_str()),
                None if verification.is_done() => "done",
                None => "started",
            },
        };
        json!({"phase": phase})
    }
}

async fn asked(seen: &Arc<Mutex<Seen>>, client: &Client, sender: &UserId, flow: &str) {
    match client.encryption().get_verification_request(sender, flow).await {
        Some(request) if !request.we_started() => follow(seen, request),
        Some(_) => {}
        None => eprintln!("the verification request {flow} of {sender} is not known"),
    }
}

/// Take a verification for the latest, and answer its start at once, as a user interface does.
fn follow(seen: &Arc<Mutex<Seen>>, request: VerificationRequest) {
    seen.lock().unwrap().request = Some(request.clone());
    tokio::spawn(async move {
        let mut changes = pin!(request.changes());
        while let Some(state) = changes.next().await {
            if let VerificationRequestState::Transitioned { verification: Verification::SasV1(sas) } = state
                && matches!(sas.state(), SasState::Started { .. })
                && let Err(error) = sas.accept().await
            {
                eprintln!("the verification cannot be accepted: {error}");
            }
        }
    });
}
