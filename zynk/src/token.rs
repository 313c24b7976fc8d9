//! `zynk token create`.

use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value};
use zynk_auth::{Claims, KeyRing, VideoGrants};

use crate::cli::{KeyFlags, TokenArguments};
use crate::config;

/// What `canPublishSources` may hold.
const SOURCES: [&str; 4] = ["camera", "microphone", "screen_share", "screen_share_audio"];

/// The token, without a line break.
pub(crate) fn create(arguments: &TokenArguments) -> Result<String> {
    for (flag, text) in [("--room", &arguments.room), ("--identity", &arguments.identity)] {
        if text.trim().is_empty() {
            bail!("{flag} is empty: nobody could join with such a token");
        }
    }
    // Tokens count whole seconds.
    if arguments.ttl.as_secs() == 0 {
        bail!("--ttl is less than a second: the token would be void at once");
    }
    let mut claims = Claims::for_identity(&arguments.identity);
    claims.name.clone_from(&arguments.name);
    claims.metadata.clone_from(&arguments.metadata);
    claims.video = grants(&arguments.room, arguments.admin, &arguments.grants)?;
    Ok(key_ring(&arguments.key)?.sign(&claims, arguments.ttl, SystemTime::now())?)
}

/// The keys that the flags, the configuration or `zynk dev` have, in this order.
pub(crate) fn key_ring(flags: &KeyFlags) -> Result<KeyRing> {
    match (&flags.api_key, &flags.api_secret) {
        (Some(key), Some(secret)) => Ok(KeyRing::new([(key.clone(), secret.clone())])),
        _ => Ok(config::read(flags.config.as_deref())?.key_ring()),
    }
}

fn grants(room: &str, admin: bool, more: &[String]) -> Result<VideoGrants> {
    let mut grants = VideoGrants::join(room);
    if admin {
        grants.room_admin = true;
        grants.room_create = true;
        grants.room_list = true;
    }
    let Value::Object(mut fields) = serde_json::to_value(&grants)? else { bail!("grants are no object") };
    for grant in more {
        let (key, value) = grant.split_once('=').unwrap_or((grant, "true"));
        fields.insert(camel_case(key), parse(key, value));
    }
    let grants: VideoGrants =
        serde_json::from_value(Value::Object(fields)).context("a grant has a value of the wrong type")?;
    if let Some(unknown) = grants.other.keys().next() {
        bail!("unknown grant {unknown}; known are: {}", known().join(", "));
    }
    let is_source = |text: &&String| SOURCES.iter().any(|source| text.eq_ignore_ascii_case(source));
    if let Some(unknown) = grants.can_publish_sources.iter().find(|text| !is_source(text)) {
        bail!("unknown source {unknown} in canPublishSources; known are: {}", SOURCES.join(", "));
    }
    Ok(grants)
}

/// `can_publish` and `can-publish` are `canPublish`.
fn camel_case(key: &str) -> String {
    let mut words = key.split(['_', '-']);
    let mut text = words.next().unwrap_or_default().to_owned();
    for word in words {
        let mut characters = word.chars();
        text.extend(characters.next().map(|first| first.to_ascii_uppercase()));
        text.push_str(characters.as_str());
    }
    text
}

/// Lists are separated by commas; names stay text even when they look like numbers.
fn parse(key: &str, value: &str) -> Value {
    match (camel_case(key).as_str(), value) {
        ("canPublishSources", list) => {
            list.split(',').filter(|item| !item.is_empty()).map(Value::from).collect()
        }
        ("room" | "destinationRoom", name) => Value::from(name),
        (_, "true") => Value::Bool(true),
        (_, "false") => Value::Bool(false),
        (_, text) => Value::from(text),
    }
}

/// The names of all grants.
fn known() -> Vec<String> {
    let all = VideoGrants {
        room_create: true,
        room_list: true,
        room_record: true,
        room_admin: true,
        room_join: true,
        room: "r".into(),
        can_publish: Some(true),
        can_subscribe: Some(true),
        can_publish_data: Some(true),
        can_publish_sources: vec!["camera".into()],
        can_update_own_metadata: Some(true),
        ingress_admin: true,
        hidden: true,
        recorder: true,
        agent: true,
        can_subscribe_metrics: Some(true),
        can_manage_agent_session: Some(true),
        destination_room: "r".into(),
        other: Default::default(),
    };
    let object = serde_json::to_value(all).ok().and_then(|value| value.as_object().cloned());
    object.map(Map::into_iter).map(|fields| fields.map(|(key, _)| key).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command, TokenCommand};

    fn arguments(more: &[&str]) -> TokenArguments {
        let base = ["zynk", "token", "create", "--room", "lobby", "--identity", "alice", "--api-key", "k"];
        let line = base.iter().chain(&["--api-secret", "s"]).chain(more);
        match Cli::try_parse_from(line).unwrap().command {
            Command::Token(TokenCommand::Create(arguments)) => arguments,
            _ => unreachable!("the line says token create"),
        }
    }

    fn claims(more: &[&str]) -> Claims {
        let token = create(&arguments(more)).unwrap();
        KeyRing::single("k", "s").verify(&token, SystemTime::now()).unwrap()
    }

    #[test]
    fn a_token_lets_one_participant_join_one_room() {
        let claims = claims(&["--name", "Alice A."]);
        assert_eq!((claims.identity.as_str(), claims.name.as_str()), ("alice", "Alice A."));
        assert_eq!(claims.video, VideoGrants::join("lobby"));
        let life = claims.remaining_life(SystemTime::now()).as_secs();
        assert!((6 * 3600 - 5..=6 * 3600).contains(&life), "{life}");
    }

    #[test]
    fn grants_are_taken_in_any_spelling() {
        let video = claims(&[
            "--grant",
            "canPublish=false",
            "--grant",
            "can_publish_data=true",
            "--grant",
            "hidden",
            "--grant",
            "can-publish-sources=camera,microphone",
            "--grant",
            "destinationRoom=7",
        ])
        .video;
        assert_eq!((video.can_publish, video.can_publish_data), (Some(false), Some(true)));
        assert!(video.hidden);
        assert_eq!(video.can_publish_sources, ["camera", "microphone"]);
        assert_eq!(video.destination_room, "7");
    }

    #[test]
    fn admins_moderate_and_manage_rooms() {
        let video = claims(&["--admin", "--ttl", "90s"]).video;
        assert!(video.is_admin_of("lobby") && video.room_create && video.room_list);
    }

    #[test]
    fn tokens_that_nobody_could_use_are_refused() {
        let error = |more: &[&str]| create(&arguments(more)).unwrap_err().to_string();
        for flag in ["--room", "--identity"] {
            let mut arguments = arguments(&[]);
            let text = if flag == "--room" { &mut arguments.room } else { &mut arguments.identity };
            *text = " ".into();
            let error = create(&arguments).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{flag} is empty")), "{error}");
        }
        assert!(error(&["--ttl", "0s"]).starts_with("--ttl is less than a second"));
        assert!(error(&["--ttl", "999ms"]).starts_with("--ttl is less than a second"));
        let source = error(&["--grant", "canPublishSources=camera,kamera"]);
        assert!(
            source.starts_with("unknown source kamera in canPublishSources; known are: camera, "),
            "{source}"
        );
        assert!(create(&arguments(&["--grant", "canPublishSources=SCREEN_SHARE"])).is_ok());
    }

    #[test]
    fn unknown_and_mistyped_grants_are_refused() {
        let error = |grant| create(&arguments(&["--grant", grant])).unwrap_err().to_string();
        assert!(error("canFly").starts_with("unknown grant canFly; known are: "), "{}", error("canFly"));
        assert!(error("canFly").contains("canPublishSources"));
        assert_eq!(error("canPublish=maybe"), "a grant has a value of the wrong type");
    }
}
