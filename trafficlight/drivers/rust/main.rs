// The driver of matrix-rust-sdk: reads one JSON object per line, performs it, writes one per line.

// The SDK's futures are nested deeper than the compiler follows by default.
#![recursion_limit = "512"]

mod client;
mod crypto;
mod messages;
mod rooms;

use std::{error::Error, fmt, time::Duration};

use client::{Device, limit_waits};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    time::timeout,
};

pub type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;
/// The response of an action; null for those that answer nothing.
pub type Answer = Result<Value>;

/// An action that this client cannot perform.
#[derive(Debug)]
struct Unsupported(String);

impl fmt::Display for Unsupported {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "the driver of matrix-rust-sdk has no action {}", self.0)
    }
}

impl Error for Unsupported {}

#[derive(Deserialize)]
struct Request {
    id: Value,
    action: String,
    #[serde(default)]
    data: Option<Data>,
    /// Seconds until the host stops waiting.
    deadline: Option<f64>,
}

/// The fields of every action's data.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Data {
    username: String,
    password: String,
    key_backup_passphrase: Option<String>,
    homeserver_url: HomeserverUrl,
    name: String,
    topic: Option<String>,
    encrypted: Option<bool>,
    room_version: Option<String>,
    version: String,
    room_id: Option<String>,
    #[serde(rename = "userId")]
    user: Option<String>,
    reason: Option<String>,
    level: i32,
    #[serde(rename = "historyVisibility")]
    history_visibility: String,
    message: String,
    event_id: String,
    key: String,
    typing: bool,
    content_type: String,
    content: String,
    device_id: String,
    recovery_key: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct HomeserverUrl {
    local: String,
}

/// Declares the actions, each a method of the device. Not among them: the SDK has neither dehydrated devices nor a clock to move.
macro_rules! actions {
    ($($name:ident),* $(,)?) => {
        const ACTIONS: &[&str] = &[$(stringify!($name)),*];

        async fn perform(device: &mut Device, action: &str, data: &Data) -> Answer {
            match action {
                $(stringify!($name) => Box::pin(device.$name(data)).await,)*
                _ => Err(Unsupported(action.to_owned()).into()),
            }
        }
    };
}

actions![
    register,
    login,
    logout,
    reload,
    set_display_name,
    get_devices,
    log_out_device,
    create_room,
    create_dm,
    open_room,
    get_room,
    invite_user,
    get_invites,
    accept_invite,
    decline_invite,
    leave_room,
    kick_user,
    ban_user,
    set_power_level,
    upgrade_room,
    change_room_history_visibility,
    send_message,
    edit_message,
    send_reply,
    send_in_thread,
    send_reaction,
    redact_event,
    send_read_receipt,
    set_typing,
    get_typing,
    send_file,
    get_file,
    load_earlier,
    verify_message_in_timeline,
    verify_last_message_is_utd,
    verify_last_message_is_trusted,
    get_timeline,
    start_crosssign,
    accept_crosssign,
    get_emoji,
    verify_crosssign_emoji,
    reject_emoji,
    cancel_verification,
    get_verification,
    get_trust,
    verify_trusted_device,
    reset_identity,
    block_device,
    exclude_insecure_devices,
    enable_key_backup,
    create_key_backup,
    restore_key_backup,
    delete_key_backup,
];

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .with_writer(std::io::stderr)
        .init();
    let mut device =
        Device::new(std::env::var_os("TRAFFICLIGHT_STORAGE").ok_or("TRAFFICLIGHT_STORAGE is not set")?);
    Box::pin(device.resume()).await?;
    write(json!({"type": "rust-sdk", "version": env!("MATRIX_SDK_VERSION"), "actions": ACTIONS})).await?;

    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let asked: Request = serde_json::from_str(&line)?;
        let data = asked.data.unwrap_or_default();
        limit_waits(asked.deadline);
        let performed = perform(&mut device, &asked.action, &data);
        // A request without an answer is the client's fault, and known before the host kills the process for it.
        let limit =
            asked.deadline.map_or(Duration::MAX, |seconds| Duration::from_secs_f64((seconds - 0.5).max(0.0)));
        let late = |_| Err(format!("{} did not end within {limit:?}", asked.action).into());
        write(match timeout(limit, performed).await.unwrap_or_else(late) {
            Ok(Value::Null) => json!({"id": asked.id, "response": asked.action}),
            Ok(response) => json!({"id": asked.id, "response": response}),
            Err(error) => {
                let kind = if error.is::<Unsupported>() { "unsupported" } else { "action" };
                json!({"id": asked.id, "error": {"type": kind, "details": words(&*error)}})
            }
        })
        .await?;
    }
    Ok(())
}

/// Return what an error and its causes say.
fn words(error: &(dyn Error + Send + Sync)) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !said.contains(&more) {
            said = format!("{said}: {more}");
        }
        cause = error.source();
    }
    said
}

async fn write(message: Value) -> Result<()> {
    let mut output = tokio::io::stdout();
    output.write_all(format!("{message}\n").as_bytes()).await?;
    Ok(output.flush().await?)
}
