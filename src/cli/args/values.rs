//! What was typed into values: a wrong one is told by clap, with its flag, and ends with the code of wrong
//! usage.

use std::time::Duration;

use super::FormatKind;
use crate::api::NetworkPolicy;
use crate::daemon::logging;

/// The longest life that the service gives a container, in minutes (API.md "Objects").
const LIFE_MAX: u64 = 20;

/// What is longer means for ever, and no clock has a place for it.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let bare: Option<f64> = text.parse().ok();
    let duration = match bare {
        Some(seconds) => Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string()),
        None => {
            humantime::parse_duration(text).map_err(|error| format!("{error}; write it as 5s, 2min or 500ms"))
        }
    };
    duration.map(|duration| duration.min(FOR_EVER))
}

pub(super) fn quirk(text: &str) -> Result<String, String> {
    use crate::emulator::{Profile, Quirks};
    let set = Quirks::for_profile(Profile::Plain).set(text);
    set.map(|()| text.to_owned()).map_err(|error| error.to_string())
}

pub(super) fn interval(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("longer than nothing".to_owned()),
        every => Ok(every),
    }
}

pub(super) fn json(text: &str) -> Result<serde_json::Value, String> {
    serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))
}

pub(super) fn octal(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mask) if mask <= 0o777 => Ok(mask),
        _ => Err("not an octal mask such as 022".to_owned()),
    }
}

pub(super) fn policy(text: &str) -> Result<NetworkPolicy, String> {
    if text == "disabled" {
        return Ok(NetworkPolicy(serde_json::json!({ "type": "disabled" })));
    }
    serde_json::from_str(text)
        .map(NetworkPolicy)
        .map_err(|error| format!("neither `disabled` nor JSON: {error}"))
}

/// The same, of a type that the service knows: what `mkdir` asks for is refused too late to be told well.
pub(super) fn known_policy(text: &str) -> Result<NetworkPolicy, String> {
    let policy = policy(text)?;
    match policy.0.get("type").and_then(serde_json::Value::as_str) {
        Some("disabled" | "allowlist") => Ok(policy),
        _ => Err("its `type` is `disabled` or `allowlist`".to_owned()),
    }
}

/// Whole minutes, as many as the service lets a container live without use.
pub(super) fn life(text: &str) -> Result<Duration, String> {
    let life = duration(text)?;
    let whole = life.as_secs().is_multiple_of(60) && life.subsec_nanos() == 0;
    if whole && (1..=LIFE_MAX).contains(&(life.as_secs() / 60)) {
        return Ok(life);
    }
    Err(format!("whole minutes from 1m to {LIFE_MAX}m: the service keeps no container longer without use"))
}

pub(super) fn glob(text: &str) -> Result<String, String> {
    globset::Glob::new(text).map(|_| text.to_owned()).map_err(|error| error.kind().to_string())
}

/// A URL of a server; an empty one is none.
pub(super) fn server(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Ok(String::new());
    }
    match url::Url::parse(text.trim()) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(text.to_owned()),
        _ => Err("not a URL such as https://api.openai.com/v1".to_owned()),
    }
}

pub(super) fn log_filter(text: &str) -> Result<String, String> {
    logging::check(text).map(|()| text.to_owned())
}

/// Of content, which is no JSON.
pub(super) fn as_it_is(text: &str) -> Result<FormatKind, String> {
    match text {
        "raw" => Ok(FormatKind::Raw),
        _ => Err("content is printed as it is: `raw`, which is the default".to_owned()),
    }
}
