//! A device of one user. An action returns when its effect is visible in it.

use std::{
    cell::Cell,
    collections::HashMap,
    fmt::Display,
    fs, io,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use matrix_sdk::{
    Client, Room,
    authentication::matrix::MatrixSession,
    config::SyncSettings,
    encryption::{BackupDownloadStrategy, EncryptionSettings, verification::VerificationRequest},
    ruma::{
        OwnedRoomId, OwnedUserId, UserId,
        api::client::{
            account::register,
            filter::FilterDefinition,
            sync::sync_events::v3::Filter,
            uiaa::{AuthData, Dummy},
        },
        events::typing::SyncTypingEvent,
    },
};
use matrix_sdk_base::crypto::CollectStrategy::{AllDevices, IdentityBasedStrategy};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use crate::{Answer, Data, Result};

const LONGEST_WAIT: f64 = 25.0;
/// Seconds before the deadline of an action that a wait ends, to say what there is instead.
const MARGIN: f64 = 1.0;

thread_local! {
    static WAIT: Cell<Duration> = Cell::default();
}

/// What a restarted process needs to go on as the same device.
#[derive(Deserialize, Serialize)]
struct Session {
    homeserver: String,
    password: String,
    matrix: MatrixSession,
    /// Whether unsigned devices get no room keys.
    #[serde(default)]
    signed_only: bool,
}

/// What the sync has brought that the SDK does not keep.
#[derive(Default)]
pub struct Seen {
    pub typing: HashMap<OwnedRoomId, Vec<OwnedUserId>>,
    /// The latest verification.
    pub request: Option<VerificationRequest>,
}

pub struct Device {
    storage: PathBuf,
    client: Option<Client>,
    password: String,
    syncing: Option<JoinHandle<()>>,
    pub room: Option<Room>,
    pub seen: Arc<Mutex<Seen>>,
}

impl Device {
    pub fn new(storage: impl Into<PathBuf>) -> Self {
        let (storage, seen) = (storage.into(), Arc::default());
        Self { storage, client: None, password: String::new(), syncing: None, room: None, seen }
    }

    pub fn client(&self) -> Result<&Client> {
        self.client.as_ref().ok_or_else(|| "not logged in".into())
    }

    pub fn opened(&self) -> Result<&Room> {
        self.client()?;
        self.room.as_ref().ok_or_else(|| "no room is open".into())
    }

    pub fn own(&self) -> Result<&UserId> {
        self.client()?.user_id().ok_or_else(|| "not logged in".into())
    }

    /// Go on with the session in the storage, if there is one.
    pub async fn resume(&mut self) -> Result<()> {
        let Some(session) = self.saved()? else { return Ok(()) };
        let client = self.build(&session.homeserver, session.signed_only).await?;
        client.restore_session(session.matrix).await?;
        self.password = session.password;
        self.start(client).await
    }

    pub async fn register(&mut self, data: &Data) -> Answer {
        let client = self.enter(data).await?;
        let mut request = register::v3::Request::new();
        request.username = Some(data.username.clone());
        request.password = Some(data.password.clone());
        request.auth = Some(AuthData::Dummy(Dummy::new()));
        client.matrix_auth().register(request).await?;
        self.keep(client, data).await?;
        let encryption = self.client()?.encryption();
        self.authorised(async |auth| encryption.bootstrap_cross_signing_if_needed(auth).await).await?;
        Ok(json!(null))
    }

    pub async fn login(&mut self, data: &Data) -> Answer {
        let client = self.enter(data).await?;
        client.matrix_auth().login_username(&data.username, &data.password).send().await?;
        self.keep(client, data).await?;
        if let Some(passphrase) = &data.key_backup_passphrase {
            self.restore(passphrase).await?;
        }
        Ok(json!(null))
    }

    pub async fn logout(&mut self, _: &Data) -> Answer {
        self.client()?.matrix_auth().logout().await?;
        self.forget().await?;
        Ok(json!(null))
    }

    pub async fn reload(&mut self, _: &Data) -> Answer {
        let open = self.room.as_ref().map(|room| room.room_id().to_owned());
        self.client()?;
        self.stop().await;
        self.resume().await?;
        self.room = open.and_then(|room| self.client().ok()?.get_room(&room));
        Ok(json!(null))
    }

    pub async fn exclude_insecure_devices(&mut self, data: &Data) -> Answer {
        let mut session = self.saved()?.ok_or("not logged in")?;
        session.signed_only = true;
        self.save(&session)?;
        // The SDK takes it when a client is built.
        self.reload(data).await
    }

    pub async fn set_display_name(&mut self, data: &Data) -> Answer {
        self.client()?.account().set_display_name(Some(&data.name)).await?;
        Ok(json!(null))
    }

    pub async fn get_devices(&mut self, _: &Data) -> Answer {
        let (client, own) = (self.client()?, self.own()?);
        let mut devices = vec![];
        for listed in client.devices().await?.devices {
            let known = client.encryption().get_device(own, &listed.device_id).await?;
            devices.push(json!({
                "device_id": listed.device_id,
                "display_name": listed.display_name.unwrap_or_default(),
                "verified": known.is_some_and(|device| device.is_verified_with_cross_signing()),
            }));
        }
        Ok(json!({"devices": devices}))
    }

    pub async fn log_out_device(&mut self, data: &Data) -> Answer {
        let devices = [data.device_id.as_str().into()];
        let client = self.client()?;
        self.authorised(async |auth| Ok(client.delete_devices(&devices, auth).await?)).await?;
        Ok(json!(null))
    }

    /// Make a client with an empty store.
    async fn enter(&mut self, data: &Data) -> Result<Client> {
        self.forget().await?;
        self.build(&data.homeserver_url.local, false).await
    }

    /// Keep the session of a client that has just logged in, and start it.
    async fn keep(&mut self, client: Client, data: &Data) -> Result<()> {
        let session = Session {
            homeserver: data.homeserver_url.local.clone(),
            password: data.password.clone(),
            matrix: client.matrix_auth().session().ok_or("there is no session after the login")?,
            signed_only: false,
        };
        self.save(&session)?;
        self.password = session.password;
        client.encryption().wait_for_e2ee_initialization_tasks().await;
        self.start(client).await
    }

    fn saved(&self) -> Result<Option<Session>> {
        match fs::read(self.session_file()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            saved => Ok(Some(serde_json::from_slice(&saved?)?)),
        }
    }

    fn save(&self, session: &Session) -> Result<()> {
        Ok(fs::write(self.session_file(), serde_json::to_vec(session)?)?)
    }

    async fn build(&self, homeserver: &str, signed_only: bool) -> Result<Client> {
        let settings = EncryptionSettings {
            auto_enable_cross_signing: true,
            auto_enable_backups: false,
            backup_download_strategy: BackupDownloadStrategy::AfterDecryptionFailure,
        };
        let client = Client::builder()
            .homeserver_url(homeserver)
            .respect_login_well_known(false)
            .sqlite_store(self.storage.join("store"), None)
            .with_room_key_recipient_strategy(if signed_only { IdentityBasedStrategy } else { AllDevices })
            .with_encryption_settings(settings);
        Ok(client.build().await?)
    }

    /// Sync once, and go on syncing in the background.
    async fn start(&mut self, client: Client) -> Result<()> {
        *self.seen.lock().unwrap() = Seen::default();
        client.event_cache().subscribe()?;
        let seen = self.seen.clone();
        client.add_event_handler(move |event: SyncTypingEvent, room: Room| async move {
            seen.lock().unwrap().typing.insert(room.room_id().to_owned(), event.content.user_ids);
        });
        self.notice_verifications(&client);

        let limit: FilterDefinition = serde_json::from_value(json!({"room": {"timeline": {"limit": 50}}}))?;
        let settings = SyncSettings::new().filter(Filter::FilterDefinition(limit));
        client.sync_once(settings.clone().timeout(Duration::ZERO)).await?;
        self.syncing = Some(tokio::spawn(sync(client.clone(), settings)));
        self.client = Some(client);
        Ok(())
    }

    async fn stop(&mut self) {
        if let Some(syncing) = self.syncing.take() {
            syncing.abort();
            let _ = syncing.await;
        }
        (self.client, self.room) = (None, None);
        *self.seen.lock().unwrap() = Seen::default();
    }

    /// Stop, and delete the session and its store.
    async fn forget(&mut self) -> Result<()> {
        self.stop().await;
        for path in [self.session_file(), self.storage.join("store")] {
            let deleted = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
            if let Err(error) = deleted
                && error.kind() != io::ErrorKind::NotFound
            {
                return Err(error.into());
            }
        }
        Ok(())
    }

    fn session_file(&self) -> PathBuf {
        self.storage.join("session.json")
    }

    /// Make a request, with the password if the homeserver asks for it.
    pub async fn authorised<T>(
        &self,
        request: impl AsyncFn(Option<AuthData>) -> matrix_sdk::Result<T>,
    ) -> Result<T> {
        match request(None).await {
            Err(error) => {
                let asked = error.as_uiaa_response().map(|asked| asked.session.clone());
                Ok(request(Some(self.password(asked.ok_or(error)?)?)).await?)
            }
            done => Ok(done?),
        }
    }

    pub fn password(&self, session: Option<String>) -> Result<AuthData> {
        let data = json!({
            "identifier": {"type": "m.id.user", "user": self.own()?},
            "password": self.password,
        });
        Ok(AuthData::new("m.login.password", session, serde_json::from_value(data)?)?)
    }
}

async fn sync(client: Client, settings: SyncSettings) {
    while let Err(error) = client.sync(settings.clone()).await {
        eprintln!("syncing failed: {error}");
        if error.as_client_api_error().is_some_and(|error| error.status_code.as_u16() == 401) {
            return;
        }
        sleep(Duration::from_secs(1)).await;
    }
}

/// Return a user id; the wire may leave its @ out.
pub fn user(data: &Data) -> Result<OwnedUserId> {
    let given = data.user.as_deref().ok_or("userId is missing")?;
    Ok(UserId::parse(format!("@{}", given.trim_start_matches('@')))?)
}

/// Set how long the waits of an action may take.
pub fn limit_waits(deadline: Option<f64>) {
    let seconds = deadline.map_or(LONGEST_WAIT, |deadline| (deadline - MARGIN).clamp(0.0, LONGEST_WAIT));
    WAIT.set(Duration::from_secs_f64(seconds));
}

/// Wait until something is seen; the error says what there is instead.
pub async fn until<T>(
    what: impl Display,
    mut see: impl AsyncFnMut() -> Result<Option<T>>,
    there: impl AsyncFn() -> Result<String>,
) -> Result<T> {
    let longest = WAIT.get();
    let end = Instant::now() + longest;
    loop {
        if let Some(found) = see().await? {
            return Ok(found);
        }
        if Instant::now() > end {
            let there = there().await?;
            return Err(format!("expected {what} within {longest:?}; there is {there}").into());
        }
        sleep(Duration::from_millis(10)).await;
    }
}
