//! Other people's TURN clients against a TURN server: coturn's tools, webrtc-rs' client, aiortc.
//!
//! Every check runs against Debian's coturn as well. That says nothing about coturn; it says that a check which
//! fails elsewhere fails because of the server.
//!
//! What `turnutils_uclient` 4.6.1 fails with its own server is not among the checks: `-N` (it binds a peer to a second
//! channel and gives up at the 400 that is due), `-P` (of what is sent through RFC 6062's incoming connections half
//! arrives), `-M -t` (mobility over TCP: the connection with the ticket is closed) and, every second time, `-M -S` (over
//! DTLS, whose handshakes coturn begins with an alert now and then). On a busy machine two more fail now and then: `-R`
//! (malformed requests at random; it may wait for ever) and ten clients over TLS, some of whose messages are lost. It
//! cannot ask for SHA-256.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout
)]

#[path = "turn/echo.rs"]
mod echo;
#[path = "turn/program.rs"]
mod program;
#[allow(dead_code, reason = "what bad_input_turn.rs alone needs")]
#[path = "turn/server.rs"]
mod server;
#[path = "turn/stun_tools.rs"]
mod stun_tools;
#[path = "turn/uclient.rs"]
mod uclient;
#[allow(dead_code, reason = "what bad_input_turn.rs alone needs")]
#[path = "turn/webrtc_rs.rs"]
mod webrtc_rs;

use server::{Authentication, Family, Transport, TurnUnderTest};
use uclient::{Peer, Uclient};

/// Makes a module `$name` with every check against the server that `$start` starts: a function from
/// [`Authentication`] to [`TurnUnderTest`].
macro_rules! turn_conformance {
    ($name:ident, $start:expr) => {
        mod $name {
            use super::*;

            // What is asked for, of which address, with which flags of turnutils_uclient. A relayed address is of
            // the peer's family.
            uclient_tests! { $start;
                channels_over_udp: Udp, V4, Peer::Echo(V4), [];
                channels_over_tcp: Tcp, V4, Peer::Echo(V4), [];
                channels_over_tls: Tls, V4, Peer::Echo(V4), [];
                indications_over_udp: Udp, V4, Peer::Echo(V4), ["-s"];
                indications_over_tcp: Tcp, V4, Peer::Echo(V4), ["-s"];
                indications_over_tls: Tls, V4, Peer::Echo(V4), ["-s"];
                // It draws a version for each connection, 1.0 or 1.2. 1.0, which RFC 8996 forbids, ours refuses; then it
                // draws again.
                channels_over_dtls: Dtls, V4, Peer::Echo(V4), [];
                indications_over_dtls: Dtls, V4, Peer::Echo(V4), ["-s"];
                channels_over_dtls_on_ipv6: Dtls, V6, Peer::Echo(V6), [];
                channels_over_udp_on_ipv6: Udp, V6, Peer::Echo(V6), [];
                channels_over_tcp_on_ipv6: Tcp, V6, Peer::Echo(V6), [];
                channels_over_tls_on_ipv6: Tls, V6, Peer::Echo(V6), [];
                indications_over_udp_on_ipv6: Udp, V6, Peer::Echo(V6), ["-s"];
                indications_over_tls_on_ipv6: Tls, V6, Peer::Echo(V6), ["-s"];
                from_ipv4_to_an_ipv6_peer: Udp, V4, Peer::Echo(V6), [];
                from_ipv6_to_an_ipv4_peer: Udp, V6, Peer::Echo(V4), [];
                channels_padded_over_udp: Udp, V4, Peer::Echo(V4), ["-D"];
                lengths_that_need_padding_over_tcp: Tcp, V4, Peer::Echo(V4), ["-l", "171"];
                lengths_that_need_padding_over_tls: Tls, V4, Peer::Echo(V4), ["-l", "173"];
                large_messages: Udp, V4, Peer::Echo(V4), ["-l", "1200"];
                dont_fragment: Udp, V4, Peer::Echo(V4), ["-g"];
                permissions_and_bindings_renewed: Udp, V4, Peer::Echo(V4), ["-G"];
                ten_clients: Udp, V4, Peer::Echo(V4), ["-m", "10", "-z", "5"];
                relayed_client_to_relayed_client: Udp, V4, Peer::EachOther(V4), ["-c"];
                relayed_client_to_relayed_client_on_ipv6: Udp, V6, Peer::EachOther(V6), ["-c"];
                // Without -c, a second allocation takes what EVEN-PORT has reserved for RTCP.
                even_port_and_reservation: Udp, V4, Peer::EchoPair(V4), [];
                even_port_and_reservation_over_tcp: Tcp, V4, Peer::EchoPair(V4), [];
                even_port_and_reservation_on_ipv6: Udp, V6, Peer::EchoPair(V6), [];
                mobility: Udp, V4, Peer::Echo(V4), ["-M"];
                dual_allocation_to_ipv4: Udp, V4, Peer::Dual(V4), [];
                dual_allocation_to_ipv6: Udp, V4, Peer::Dual(V6), ["-s"];
                tcp_relay: Tcp, V4, Peer::EachOther(V4), ["-T"];
                tcp_relay_over_tls: Tls, V4, Peer::EachOther(V4), ["-T"];
                tcp_relay_on_ipv6: Tcp, V6, Peer::EachOther(V6), ["-T"];
            }

            #[test]
            fn credentials_from_a_shared_secret() {
                let turn = $start(Authentication::Secret);
                Uclient::new(Transport::Udp, Family::V4, Peer::Echo(Family::V4), &[])
                    .run(&turn)
                    .assert_relayed();
            }

            #[test]
            fn a_wrong_password_is_refused() {
                let turn = $start(Authentication::User);
                let client = Uclient::new(Transport::Udp, Family::V4, Peer::Echo(Family::V4), &[]);
                client.with_wrong_password().run(&turn).assert_refused();
            }

            #[test]
            fn credentials_from_another_secret_are_refused() {
                let turn = $start(Authentication::Secret);
                let client = Uclient::new(Transport::Udp, Family::V4, Peer::Echo(Family::V4), &[]);
                client.with_wrong_password().run(&turn).assert_refused();
            }

            #[test]
            fn a_certificate_that_clients_verify() {
                let turn = $start(Authentication::User);
                let client = Uclient::new(Transport::Tls, Family::V4, Peer::Echo(Family::V4), &[]);
                client.verifying().run(&turn).assert_relayed();
            }

            #[test]
            fn stunclient_learns_its_address() {
                let turn = $start(Authentication::User);
                for family in [Family::V4, Family::V6] {
                    stun_tools::stunclient(&turn, family);
                }
            }

            #[test]
            fn natdiscovery_learns_its_address() {
                let turn = $start(Authentication::User);
                for family in [Family::V4, Family::V6] {
                    stun_tools::natdiscovery(&turn, family, "-m");
                }
            }

            #[test]
            fn webrtc_rs_allocates_binds_and_relays() {
                webrtc_rs::relay(&$start(Authentication::User), Family::V4);
            }

            #[test]
            fn webrtc_rs_allocates_binds_and_relays_from_ipv6() {
                webrtc_rs::relay(&$start(Authentication::User), Family::V6);
            }

            #[test]
            fn aiortc_peers_call_each_other_through_a_relay_over_udp() {
                program::aiortc_call(&$start(Authentication::User), Transport::Udp);
            }

            #[test]
            fn aiortc_peers_call_each_other_through_a_relay_over_tcp() {
                program::aiortc_call(&$start(Authentication::User), Transport::Tcp);
            }

            #[test]
            fn aiortc_peers_call_each_other_through_a_relay_over_tls() {
                program::aiortc_call(&$start(Authentication::User), Transport::Tls);
            }
        }
    };
}

macro_rules! uclient_tests {
    ($start:expr; $($name:ident: $transport:ident, $family:ident, $peer:expr, $flags:expr;)*) => {
        $(
            #[test]
            fn $name() {
                #[allow(unused_imports, reason = "for the table")]
                use Family::{V4, V6};
                let turn = $start(Authentication::User);
                Uclient::new(Transport::$transport, $family, $peer, &$flags).run(&turn).assert_relayed();
            }
        )*
    };
}

turn_conformance!(zynk, TurnUnderTest::zynk);
turn_conformance!(coturn, TurnUnderTest::coturn);

#[test]
fn openssl_speaks_dtls_with_the_relay() {
    let turn = TurnUnderTest::zynk(Authentication::User);
    for family in [Family::V4, Family::V6] {
        stun_tools::binding_over_dtls(&turn, family);
    }
}

/// Needs a server with a second port that tells of it (RFC 5780), which no call does.
#[test]
fn coturn_tells_natdiscovery_how_a_nat_maps_and_filters() {
    let turn = TurnUnderTest::coturn(Authentication::User);
    let mapping = stun_tools::natdiscovery(&turn, Family::V4, "-m");
    assert!(mapping.contains("NAT with Endpoint Independent Mapping!"), "{mapping}");
    let filtering = stun_tools::natdiscovery(&turn, Family::V4, "-f");
    assert!(filtering.contains("NAT with Endpoint Independent Filtering!"), "{filtering}");
}
