use base64::Engine;
use proptest::prelude::*;

use super::*;
use crate::VideoGrants;

const HOUR: Duration = Duration::from_secs(3600);

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn ring() -> KeyRing {
    KeyRing::single("devkey", "secret")
}

fn claims() -> Claims {
    Claims { video: VideoGrants::join("lobby"), name: "Alice".into(), ..Claims::for_identity("alice") }
}

/// A token with any header and payload, signed as RFC 7515 says, independently of `KeyRing::sign`.
fn forge(header: &str, payload: &str, secret: &str) -> String {
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    let key = EncodingKey::from_secret(secret.as_bytes());
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
    format!("{message}.{signature}")
}

const HS256: &str = r#"{"alg":"HS256","typ":"JWT"}"#;

#[test]
fn a_signed_token_verifies_and_carries_its_claims() {
    let token = ring().sign(&claims(), HOUR, at(1_000)).unwrap();
    let verified = ring().verify(&token, at(1_000)).unwrap();
    assert_eq!(verified.identity, "alice");
    assert_eq!(verified.issuer, "devkey");
    assert_eq!(verified.video, VideoGrants::join("lobby"));
    assert_eq!(verified.expires_at_s, Some(4_600));
    assert_eq!(verified.remaining_life(at(1_600)), Duration::from_secs(3_000));
}

/// Signed by hand with `openssl dgst -sha256 -hmac secret`.
#[test]
fn a_token_of_another_implementation_verifies() {
    let token = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.\
                 eyJpc3MiOiJkZXZrZXkiLCJzdWIiOiJhbGljZSIsImV4cCI6NDYwMCwidmlkZW8iOnsicm9vbUpvaW4iOnRydWUsInJvb20iOiJsb2JieSJ9fQ.\
                 _7nga8EZoqLWcirtH90ysK9bpKn-FZxV3uWhgQixdx8";
    let verified = ring().verify(token, at(1_000)).unwrap();
    assert!(verified.video.room_join);
    assert_eq!((verified.identity.as_str(), verified.video.room.as_str()), ("alice", "lobby"));
}

#[test]
fn expiry_has_sixty_seconds_of_leeway() {
    let token = ring().sign(&claims(), HOUR, at(1_000)).unwrap();
    assert!(ring().verify(&token, at(4_660)).is_ok());
    assert_eq!(ring().verify(&token, at(4_661)), Err(TokenError::Expired));
}

#[test]
fn not_before_has_sixty_seconds_of_leeway() {
    let token = ring().sign(&claims(), HOUR, at(1_000)).unwrap();
    assert!(ring().verify(&token, at(940)).is_ok());
    assert_eq!(ring().verify(&token, at(939)), Err(TokenError::NotYetValid));
}

#[test]
fn a_token_without_expiry_is_refused() {
    let token = forge(HS256, r#"{"iss":"devkey","sub":"a"}"#, "secret");
    assert_eq!(ring().verify(&token, at(0)), Err(TokenError::NoExpiration));
}

#[test]
fn other_algorithms_are_refused_before_anything_else() {
    let payload = r#"{"iss":"devkey","sub":"a","exp":100}"#;
    for header in [r#"{"alg":"none"}"#, r#"{"alg":"RS256"}"#, r#"{"alg":"HS512"}"#, r#"{"typ":"JWT"}"#] {
        assert_eq!(ring().verify(&forge(header, payload, "secret"), at(0)), Err(TokenError::Algorithm));
    }
    let unsigned =
        format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#), URL_SAFE_NO_PAD.encode(payload));
    assert_eq!(ring().verify(&unsigned, at(0)), Err(TokenError::Algorithm));
    let stripped = format!("{}.{}.", URL_SAFE_NO_PAD.encode(HS256), URL_SAFE_NO_PAD.encode(payload));
    assert_eq!(ring().verify(&stripped, at(0)), Err(TokenError::Signature));
}

#[test]
fn wrong_secret_and_unknown_key_are_told_apart() {
    let token = ring().sign(&claims(), HOUR, at(0)).unwrap();
    assert_eq!(KeyRing::single("devkey", "other").verify(&token, at(0)), Err(TokenError::Signature));
    assert_eq!(KeyRing::single("prod", "secret").verify(&token, at(0)), Err(TokenError::UnknownKey));
    assert_eq!(KeyRing::default().verify(&token, at(0)), Err(TokenError::UnknownKey));
    assert_eq!(TokenError::UnknownKey.to_string(), "invalid API key");
}

#[test]
fn unknown_critical_headers_are_refused() {
    let token =
        forge(r#"{"alg":"HS256","crit":["b64"],"b64":false}"#, r#"{"iss":"devkey","exp":9}"#, "secret");
    assert!(matches!(ring().verify(&token, at(0)), Err(TokenError::Malformed(_))));
}

#[test]
fn garbage_is_malformed_and_long_tokens_are_not_read() {
    for token in ["", ".", "..", "a.b.c", "a.b.c.d", "e30.e30", "not a token"] {
        assert!(
            matches!(ring().verify(token, at(0)), Err(TokenError::Malformed(_) | TokenError::Algorithm)),
            "{token:?}"
        );
    }
    let long = "a".repeat(MAX_TOKEN_BYTES + 1);
    assert_eq!(ring().verify(&long, at(0)), Err(TokenError::TooLong { bytes: MAX_TOKEN_BYTES + 1 }));
}

#[test]
fn a_claim_of_the_wrong_type_is_malformed() {
    let token = forge(HS256, r#"{"iss":"devkey","exp":100,"video":[1]}"#, "secret");
    assert!(matches!(ring().verify(&token, at(0)), Err(TokenError::Malformed(_))));
}

#[test]
fn identity_falls_back_to_the_token_id() {
    let token = forge(HS256, r#"{"iss":"devkey","exp":100,"jti":"bob","identity":"mallory"}"#, "secret");
    let claims = ring().verify(&token, at(0)).unwrap();
    assert_eq!(claims.identity, "bob");
    assert!(claims.other.is_empty());
}

#[test]
fn refreshed_tokens_live_ten_minutes_or_what_is_left() {
    let token = ring().sign(&claims(), HOUR, at(0)).unwrap();
    let first = ring().verify(&token, at(0)).unwrap();
    let long = ring().verify(&ring().refresh(&first, at(600)).unwrap(), at(600)).unwrap();
    assert_eq!(long.expires_at_s, Some(3_600));
    let short = ring().verify(&ring().refresh(&first, at(3_600)).unwrap(), at(3_600)).unwrap();
    assert_eq!(short.expires_at_s, Some(4_200));
    assert_eq!((short.identity, short.name, short.video), (first.identity, first.name, first.video));
}

#[test]
fn the_first_key_signs_and_every_key_verifies() {
    let pair = |key: &str, secret: &str| (key.to_owned(), SecretString::from(secret));
    let both = KeyRing::new([pair("new", "n"), pair("old", "o")]);
    let token = both.sign(&claims(), HOUR, at(0)).unwrap();
    assert_eq!(both.verify(&token, at(0)).unwrap().issuer, "new");
    let old = KeyRing::single("old", "o").sign(&claims(), HOUR, at(0)).unwrap();
    assert_eq!(both.verify(&old, at(0)).unwrap().issuer, "old");
    assert_eq!(KeyRing::default().sign(&claims(), HOUR, at(0)), Err(SignError::NoKey));
}

#[test]
fn secrets_stay_out_of_debug_output() {
    assert_eq!(format!("{:?}", KeyRing::single("devkey", "hidden-away")), r#"{"devkey"}"#);
}

#[test]
fn webhook_tokens_are_bound_to_their_body() {
    let body = br#"{"event":"room_started"}"#;
    let token = ring().sign_webhook(body, at(0)).unwrap();
    let claims = ring().verify_webhook(&token, body, at(0)).unwrap();
    assert_eq!(claims.expires_at_s, Some(300));
    assert_eq!(ring().verify_webhook(&token, b"{}", at(0)), Err(TokenError::BodyMismatch));
    // An ordinary token has no hash, so that it cannot stand in for a webhook's.
    let token = ring().sign(&self::claims(), HOUR, at(0)).unwrap();
    assert_eq!(ring().verify_webhook(&token, b"", at(0)), Err(TokenError::BodyMismatch));
}

proptest! {
    #[test]
    fn any_text_is_refused_without_panic(text in ".{0,200}") {
        prop_assert!(ring().verify(&text, at(0)).is_err());
    }

    #[test]
    fn any_header_and_payload_are_handled(header in ".{0,60}", payload in ".{0,120}") {
        let _ = ring().verify(&forge(&header, &payload, "secret"), at(0));
    }

    #[test]
    fn any_changed_character_breaks_a_token(index in 0usize..400, replacement in "[A-Za-z0-9_-]") {
        let token = ring().sign(&claims(), HOUR, at(0)).unwrap();
        let index = index % token.len();
        let mut changed = token.clone();
        changed.replace_range(index..=index, &replacement);
        // The last character of a part has unused bits, which the decoder refuses to see set.
        prop_assert!(changed == token || ring().verify(&changed, at(0)).is_err());
    }
}
