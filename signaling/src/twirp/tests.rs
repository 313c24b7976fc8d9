use zynk_protocol::livekit;

use super::*;

async fn line(error: TwirpError) -> String {
    let response = error.into_response();
    let content_type = response.headers()[header::CONTENT_TYPE].to_str().unwrap().to_owned();
    let status = response.status().as_u16();
    let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    format!("{status} {content_type} {}\n", std::str::from_utf8(&body).unwrap())
}

#[tokio::test]
async fn every_code_has_its_status() {
    let mut lines = String::new();
    for code in TwirpCode::ALL {
        lines.push_str(&line(TwirpError::new(code, "why")).await);
    }
    insta::assert_snapshot!(lines);
}

#[tokio::test]
async fn room_errors_become_twirp_errors() {
    let rpc = |code, data: &str| AdminError::Rpc { code, message: "m".into(), data: data.into() };
    let mut lines = String::new();
    for error in [
        AdminError::NotFound("m"),
        AdminError::InvalidArgument("m".into()),
        AdminError::FailedPrecondition("m"),
        AdminError::Unimplemented("m"),
        AdminError::DeadlineExceeded("m"),
        AdminError::ResourceExhausted("m"),
        AdminError::Unavailable("m"),
        rpc(1400, ""),
        rpc(1401, ""),
        rpc(1402, ""),
        rpc(1500, ""),
        rpc(1502, ""),
        rpc(1503, ""),
        rpc(1504, ""),
        rpc(1505, ""),
        rpc(101, "{\"a\":1}"),
    ] {
        lines.push_str(&line(error.into()).await);
    }
    insta::assert_snapshot!(lines);
}

#[test]
fn both_spellings_and_protobuf_are_read() {
    let expected = livekit::CreateRoomRequest {
        name: "r".into(),
        empty_timeout: 7,
        metadata: "m".into(),
        ..Default::default()
    };
    let camel = r#"{"name":"r","emptyTimeout":7,"metadata":"m","newerField":{"a":[1]}}"#;
    let snake = r#"{"name":"r","empty_timeout":7,"metadata":"m"}"#;
    for (encoding, body) in [
        (Encoding::Json, camel.as_bytes().to_vec()),
        (Encoding::Json, snake.as_bytes().to_vec()),
        (Encoding::Protobuf, expected.encode_to_vec()),
    ] {
        assert_eq!(encoding.decode::<livekit::CreateRoomRequest>(&body).unwrap(), expected);
    }
}

#[test]
fn malformed_bodies_are_refused_with_their_place() {
    let truncated = livekit::CreateRoomRequest { name: "room".into(), ..Default::default() }.encode_to_vec();
    let mut lines = String::new();
    for (encoding, body) in [
        (Encoding::Json, &b""[..]),
        (Encoding::Json, b"[]"),
        (Encoding::Json, b"{\"name\":\"r\",\n\"metadata\":7}"),
        (Encoding::Json, b"{\"name\":\"r\""),
        (Encoding::Json, b"{\"name\":\"\xff\"}"),
        (Encoding::Protobuf, &truncated[..3]),
        (Encoding::Protobuf, b"\x0a\x02\xff\xfe"),
        (Encoding::Protobuf, b"{\"name\":\"r\"}"),
    ] {
        let error = encoding.decode::<livekit::CreateRoomRequest>(body).unwrap_err();
        assert_eq!(error.code, TwirpCode::Malformed);
        lines.push_str(&format!("{}\n", error.message));
    }
    insta::assert_snapshot!(lines);
}

#[test]
fn deep_nesting_does_no_harm() {
    let deep = format!("{}{}", "[".repeat(1_000_000), "]".repeat(1_000_000));
    let ignored = format!("{{\"unknown\":{deep},\"name\":\"r\"}}");
    assert_eq!(Encoding::Json.decode::<livekit::CreateRoomRequest>(ignored.as_bytes()).unwrap().name, "r");
    let wrong = format!("{{\"name\":{deep}}}");
    assert!(Encoding::Json.decode::<livekit::CreateRoomRequest>(wrong.as_bytes()).is_err());
    // Groups may be nested in protobuf: field 15, start.
    let groups = vec![0x7b; 1_000_000];
    assert!(Encoding::Protobuf.decode::<livekit::CreateRoomRequest>(&groups).is_err());
}

#[test]
fn other_services_have_all_their_methods() {
    assert_eq!(other_services::all_methods().count(), 33);
    for (service, method) in other_services::all_methods() {
        assert!(other_services::grant(service, method).is_some(), "{service}/{method}");
    }
    assert_eq!(other_services::grant("livekit.Egress", "CreateIngress"), None);
}
