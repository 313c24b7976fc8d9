//! Failures that clients ask for.

use std::time::Duration;

use zynk_protocol::livekit::leave_request::Action;
use zynk_protocol::livekit::simulate_scenario::Scenario;
use zynk_protocol::livekit::{self, CandidateProtocol, ClientConfigSetting, DisconnectReason};
use zynk_protocol::{CandidatePolicy, NodeAction};

use super::lifetime::{at, resume};
use super::world::{Request, Response, leave};
use super::{Peer, World};
use crate::config::IceServerConfig;
use crate::join::{JoinError, Resume};

fn rehearse(world: &mut World, peer: &Peer, scenario: Scenario) {
    world.signal(peer, Request::Simulate(livekit::SimulateScenario { scenario: Some(scenario) }));
}

fn switch(world: &mut World, peer: &Peer, protocol: CandidateProtocol) {
    rehearse(world, peer, Scenario::SwitchCandidateProtocol(protocol.into()));
    let left = world.told(peer, leave);
    assert_eq!((left.reason(), left.action()), (DisconnectReason::StateMismatch, Action::Reconnect));
    world.actions();
}

fn policies(world: &mut World) -> Vec<CandidatePolicy> {
    let opened = world.actions().into_iter().filter_map(|action| match action {
        NodeAction::OpenConnection(open) => Some(open.candidates),
        _ => None,
    });
    opened.collect()
}

fn relay(world: &mut World, peer: &Peer) -> Option<ClientConfigSetting> {
    let join = world.told(peer, |message| match message {
        Response::Join(join) => Some(join),
        _ => None,
    });
    join.client_configuration.map(|configuration| configuration.force_relay())
}

#[test]
fn l113_speech_begins_and_ends() {
    let mut world = World::new();
    let peers = ["alice", "bob"].map(|name| world.join_active(World::params(name)));
    let speech = |world: &mut World| -> Vec<(f32, bool)> {
        let told = peers.iter().map(|peer| {
            world.told(peer, |message| match message {
                Response::SpeakersChanged(changed) => Some(changed.speakers[0].clone()),
                _ => None,
            })
        });
        told.map(|speaker| (speaker.level, speaker.active)).collect()
    };
    rehearse(&mut world, &peers[0], Scenario::SpeakerUpdate(3));
    assert_eq!(speech(&mut world), [(0.9, true); 2]);
    world.advance(Duration::from_millis(2_999));
    assert!(peers.iter().all(|peer| world.inbox(peer).is_empty()));
    world.advance(Duration::from_millis(1));
    assert_eq!(speech(&mut world), [(0.0, false); 2]);
    rehearse(&mut world, &peers[0], Scenario::SpeakerUpdate(3));
    rehearse(&mut world, &peers[0], Scenario::LeaveRequestFullReconnect(true));
    world.inbox(&peers[1]);
    world.advance(Duration::from_secs(4));
    let ended = world.inbox(&peers[1]).iter().any(|message| matches!(message, Response::SpeakersChanged(_)));
    assert!(!ended, "it is gone");
}

#[test]
fn l113_the_server_sends_clients_away_and_a_failed_node_says_nothing() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    rehearse(&mut world, &alice, Scenario::ServerLeave(true));
    assert_eq!(world.told(&alice, leave).action(), Action::Disconnect);
    let alice = world.join_active(World::params("alice"));
    rehearse(&mut world, &alice, Scenario::LeaveRequestFullReconnect(true));
    assert_eq!(world.told(&alice, leave).action(), Action::Reconnect);
    for scenario in [Scenario::NodeFailure(true), Scenario::Migration(true)] {
        let alice = world.join_active(World::params("alice"));
        rehearse(&mut world, &alice, scenario);
        assert_eq!(world.inbox(&alice), []);
        assert!(world.is_closed(&alice));
        let (_, inbox) = resume(&mut world, World::params("alice"));
        assert!(matches!(&inbox[..], [Response::Leave(left)] if left.action() == Action::Reconnect));
    }
}

#[test]
fn l113_what_is_unknown_or_not_asked_for_is_ignored() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let ignored = [
        Scenario::SubscriberBandwidth(1),
        Scenario::NodeFailure(false),
        Scenario::LeaveRequestFullReconnect(false),
        Scenario::SwitchCandidateProtocol(77),
    ];
    for scenario in ignored {
        rehearse(&mut world, &alice, scenario);
    }
    assert_eq!((world.inbox(&alice), world.actions()), (vec![], vec![]));
    assert!(!world.is_closed(&alice));
}

#[test]
fn l113_a_resume_loses_its_session_after_all_messages() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    rehearse(&mut world, &alice, Scenario::DisconnectSignalOnResume(true));
    let (first, inbox) = resume(&mut world, World::params("alice"));
    assert!(matches!(inbox[0], Response::Reconnect(_)) && inbox.len() > 3, "{inbox:?}");
    assert!(world.is_closed(&at(&alice, first)));
    let (second, _) = resume(&mut world, World::params("alice"));
    assert!(!world.is_closed(&at(&alice, second)));
    rehearse(&mut world, &at(&alice, second), Scenario::DisconnectSignalOnResume(true));
    world.advance(Duration::from_secs(6));
    let (late, _) = resume(&mut world, World::params("alice"));
    assert!(!world.is_closed(&at(&alice, late)), "it asked too long ago");
}

#[test]
fn l113_three_resumes_fail_before_any_message() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    rehearse(&mut world, &alice, Scenario::DisconnectSignalOnResumeNoMessages(true));
    let again = || crate::join::JoinParams { resume: Some(Resume::default()), ..World::params("alice") };
    for _ in 0..3 {
        assert!(matches!(world.try_join(again()), Err(JoinError::Unavailable(_))));
        world.advance(Duration::from_secs(5));
    }
    let (session, inbox) = resume(&mut world, again());
    assert!(matches!(inbox[0], Response::Reconnect(_)), "{inbox:?}");
    rehearse(&mut world, &at(&alice, session), Scenario::DisconnectSignalOnResumeNoMessages(true));
    world.advance(Duration::from_secs(6));
    let (_, inbox) = resume(&mut world, again());
    assert!(matches!(inbox[0], Response::Reconnect(_)), "it asked too long ago: {inbox:?}");
}

#[test]
fn l113_a_client_is_kept_to_the_transport_it_asked_for() {
    let mut world = World::new();
    let alice = world.join_active(World::params("alice"));
    let join = |world: &mut World| {
        let alice = world.join(World::params("alice"));
        (alice, policies(world))
    };
    switch(&mut world, &alice, CandidateProtocol::Tcp);
    let (alice, opened) = join(&mut world);
    assert_eq!(opened, [CandidatePolicy::TcpOnly; 2]);
    assert_eq!(relay(&mut world, &alice), None);
    world.join(World::params("bob"));
    assert_eq!(policies(&mut world), [CandidatePolicy::All; 2], "others are not kept to it");
    switch(&mut world, &alice, CandidateProtocol::Udp);
    let (alice, opened) = join(&mut world);
    assert_eq!(opened, [CandidatePolicy::All; 2]);
    world.inbox(&alice);
    switch(&mut world, &alice, CandidateProtocol::Tls);
    assert_eq!(join(&mut world).1, [CandidatePolicy::TcpOnly; 2], "there is no relay");
}

#[test]
fn l113_a_relay_over_tls_is_used_where_there_is_one() {
    let urls = vec!["turns:turn.example.org:443?transport=tcp".to_owned()];
    let mut world = World::with(|config, _| {
        config.ice_servers = vec![IceServerConfig { urls, ..Default::default() }];
    });
    let alice = world.join_active(World::params("alice"));
    switch(&mut world, &alice, CandidateProtocol::Tls);
    let alice = world.join(World::params("alice"));
    assert_eq!(policies(&mut world), [CandidatePolicy::All; 2]);
    assert_eq!(relay(&mut world, &alice), Some(ClientConfigSetting::Enabled));
}
