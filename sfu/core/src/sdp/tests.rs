use super::*;

fn offer(media: &str) -> String {
    format!(
        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuv\r\n\
         a=fingerprint:sha-256 AA:BB\r\na=setup:actpass\r\n{media}"
    )
}

const VIDEO: &str = "m=video 9 UDP/TLS/RTP/SAVPF 96 97 98 99\r\nc=IN IP4 0.0.0.0\r\na=mid:1\r\na=sendonly\r\n\
     a=msid:stream camera\r\na=rtpmap:96 VP8/90000\r\na=rtpmap:97 rtx/90000\r\na=fmtp:97 apt=96\r\n\
     a=rtpmap:98 VP9/90000\r\na=rtpmap:99 rtx/90000\r\na=fmtp:99 apt=98\r\n";

#[test]
fn reads_track_direction_and_encodings() {
    let sdp = offer(&format!("{VIDEO}a=rid:q send\r\na=simulcast:send f;~h;q\r\n"));
    let section = read(&sdp).unwrap().sections.remove(0);
    assert_eq!(section.track_id.as_deref(), Some("camera"));
    assert!(section.sends && !section.receives);
    assert_eq!(section.rids, ["q", "h", "f"]);
}

#[test]
fn numbered_encodings_count_down_to_the_best() {
    let sdp = offer(&format!("{VIDEO}a=simulcast:send 0;1;2\r\n"));
    assert_eq!(read(&sdp).unwrap().sections[0].rids, ["2", "1", "0"]);
}

#[test]
fn refuses_what_is_not_dtls_srtp() {
    let plain = offer(&VIDEO.replace("UDP/TLS/RTP/SAVPF", "RTP/AVP"));
    assert_eq!(read(&plain), Err(NegotiationFailure::PlainRtp));
    let profile = offer(&VIDEO.replace("UDP/TLS/RTP/SAVPF", "RTP/AVPF"));
    assert_eq!(read(&profile), Err(NegotiationFailure::PlainRtp));
    let no_ice = offer(VIDEO).replace("a=ice-ufrag:abcd\r\n", "");
    assert_eq!(read(&no_ice), Err(NegotiationFailure::NoIce));
    let no_fingerprint = offer(VIDEO).replace("a=fingerprint:sha-256 AA:BB\r\n", "");
    assert_eq!(read(&no_fingerprint), Err(NegotiationFailure::NoFingerprint));
    assert!(matches!(read("garbage"), Err(NegotiationFailure::InvalidSdp { .. })));
    assert!(matches!(read(&offer("")), Err(NegotiationFailure::InvalidSdp { .. })));
    let many = offer(&VIDEO.repeat(SECTIONS_MAX + 1));
    assert!(matches!(read(&many), Err(NegotiationFailure::TooManySections { .. })));
}

#[test]
fn sources_and_attributes_are_bounded() {
    let with = |lines: usize, line: fn(usize) -> String| {
        offer(&format!("{VIDEO}{}", (0..lines).map(line).collect::<String>()))
    };
    let source: fn(usize) -> String =
        |number| format!("a=ssrc:{number} cname:x\r\na=ssrc:{number} msid:a b\r\n");
    assert!(read(&with(SECTION_SOURCES_MAX, source)).is_ok());
    assert!(matches!(
        read(&with(SECTION_SOURCES_MAX + 1, source)),
        Err(NegotiationFailure::InvalidSdp { .. })
    ));
    let sections = |count: usize| {
        let sources: String = (0..SECTION_SOURCES_MAX).map(source).collect();
        let sections =
            (0..count).map(|mid| format!("{VIDEO}{sources}").replace("a=mid:1", &format!("a=mid:{mid}")));
        offer(&sections.collect::<String>())
    };
    assert!(read(&sections(SOURCES_MAX / SECTION_SOURCES_MAX)).is_ok());
    let many = read(&sections(SOURCES_MAX / SECTION_SOURCES_MAX + 1));
    assert!(matches!(many, Err(NegotiationFailure::InvalidSdp { .. })));
    let other = with(ATTRIBUTES_MAX, |number| format!("a=x-{number}\r\n"));
    assert!(matches!(read(&other), Err(NegotiationFailure::InvalidSdp { .. })));
}

#[test]
fn puts_the_wanted_codec_first_with_its_retransmission() {
    let role = SectionRole::Receiving {
        codec: Some(MimeType::new("video/vp9")),
        red: true,
        dtx: false,
        stereo: false,
    };
    let sdp = edit(&offer(VIDEO), &[LocalSection { mid: "1".into(), role }], 0, None).unwrap();
    assert!(sdp.contains("m=video 9 UDP/TLS/RTP/SAVPF 98 99 96 97\r\n"), "{sdp}");
    assert!(!sdp.contains("a=msid"), "{sdp}");
}

#[test]
fn redundant_opus_is_preferred_where_it_may_be_used() {
    let audio = "m=audio 9 UDP/TLS/RTP/SAVPF 111 63\r\nc=IN IP4 0.0.0.0\r\na=mid:0\r\na=recvonly\r\n\
                 a=rtpmap:111 opus/48000/2\r\na=rtpmap:63 red/48000/2\r\na=fmtp:63 111/111\r\n";
    for codec in ["audio/opus", "audio/red"] {
        for (red, formats) in [(true, "63 111"), (false, "111")] {
            let codec = Some(MimeType::new(codec));
            let role = SectionRole::Receiving { codec, red, dtx: false, stereo: false };
            let sdp = edit(&offer(audio), &[LocalSection { mid: "0".into(), role }], 0, None).unwrap();
            assert!(sdp.contains(&format!("m=audio 9 UDP/TLS/RTP/SAVPF {formats}\r\n")), "{red}: {sdp}");
        }
    }
}

#[test]
fn opus_is_sent_as_asked() {
    let audio = "m=audio 9 UDP/TLS/RTP/SAVPF 63 111\r\nc=IN IP4 0.0.0.0\r\na=mid:0\r\na=recvonly\r\n\
                 a=rtpmap:63 red/48000/2\r\na=fmtp:63 111/111\r\na=rtpmap:111 opus/48000/2\r\n\
                 a=fmtp:111 minptime=10;useinbandfec=1\r\n";
    let role = SectionRole::Receiving { codec: None, red: false, dtx: true, stereo: true };
    let sdp = edit(&offer(audio), &[LocalSection { mid: "0".into(), role }], 0, None).unwrap();
    assert!(sdp.contains("m=audio 9 UDP/TLS/RTP/SAVPF 111\r\n"), "{sdp}");
    assert!(!sdp.contains("red/48000"), "{sdp}");
    assert!(
        sdp.contains("a=fmtp:111 minptime=10;useinbandfec=1;usedtx=1;stereo=1;maxaveragebitrate=510000\r\n"),
        "{sdp}"
    );
}

#[test]
fn idle_sections_name_no_track_but_keep_their_source() {
    let sent = VIDEO.replace("a=mid:1\r\n", "a=mid:1\r\na=ssrc:7 cname:x\r\na=ssrc:7 msid:stream camera\r\n");
    let wish = |role| [LocalSection { mid: "1".into(), role }];
    let idle = edit(&offer(&sent), &wish(SectionRole::Idle), 0, None).unwrap();
    assert!(idle.contains("a=inactive\r\n") && !idle.contains("msid"), "{idle}");
    assert!(idle.contains("a=ssrc:7 cname:x\r\n"), "{idle}");
    let role = SectionRole::Sending { stream_id: "PA_x|TR_y".into(), track_id: "TR_y".into() };
    let sending = edit(&offer(&sent), &wish(role), 0, None).unwrap();
    let (before, _) = sending.split_once("a=ssrc:").unwrap();
    assert!(
        before.contains("a=msid:PA_x|TR_y TR_y\r\n"),
        "readers in one pass know the name first: {sending}"
    );
    assert!(sending.contains("a=ssrc:7 cname:x\r\n") && !sending.contains("msid:stream camera"), "{sending}");
}

#[test]
fn credentials_are_replaced_in_candidates_too() {
    let media = VIDEO.replace(
        "a=mid:1\r\n",
        "a=mid:1\r\na=ice-ufrag:old\r\na=ice-pwd:old\r\na=candidate:1 1 udp 2130706431 127.0.0.1 7882 typ host ufrag old\r\n",
    );
    let credentials = Credentials { ufrag: "fresh".into(), password: "secret".into() };
    let sdp = edit(&offer(&media), &[], 1, Some(&credentials)).unwrap();
    assert!(sdp.contains("a=ice-ufrag:fresh\r\n") && sdp.contains("a=ice-pwd:secret\r\n"), "{sdp}");
    assert!(sdp.contains("typ host ufrag fresh\r\n"), "{sdp}");
}

#[test]
fn after_a_restart_every_candidate_comes_before_those_of_before() {
    let media = "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\na=rtpmap:111 opus/48000/2\r\n\
                 a=candidate:1 1 udp 2130706175 127.0.0.1 7882 typ host\r\n\
                 a=candidate:2 1 udp 2130705919 127.0.0.2 7882 typ host ufrag abcd\r\n\
                 a=candidate:3 1 tcp 2105524223 127.0.0.1 7881 typ host tcptype passive\r\n";
    let priorities = |restarts: u32| -> Vec<u32> {
        let sdp = edit(&offer(media), &[], restarts, None).unwrap();
        let lines = sdp.lines().filter_map(|line| line.strip_prefix("a=candidate:"));
        lines.map(|line| line.split(' ').nth(3).unwrap().parse().unwrap()).collect()
    };
    let mut before = 60 << 24;
    for restarts in [0, 1, 2, 3, 100, 900] {
        let [first, second, tcp] = priorities(restarts)[..] else { panic!() };
        assert!(before <= tcp && tcp < second && second < first, "{restarts}");
        assert!(first < 90 << 24, "the client's own candidate would decide");
        before = first;
    }
    assert_eq!(priorities(u32::MAX), priorities(u32::MAX - 1));
    let sdp = edit(&offer(media), &[], 0, None).unwrap();
    assert!(sdp.contains(" 127.0.0.1 7881 typ host tcptype passive\r\n"), "{sdp}");
}
