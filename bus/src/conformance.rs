//! What every backend does alike.

/// Makes a test module `$name` that runs the conformance tests against fresh buses made by `$open`: an
/// expression whose value is a future of a [`crate::Bus`] and something to keep until the test's end. The
/// caller's crate needs tokio with its `test-util`.
#[macro_export]
macro_rules! bus_conformance {
    ($name:ident, $open:expr) => {
        mod $name {
            #[allow(unused_imports)]
            use super::*;
            use $crate::{Bus, BusError};
            use zynk_protocol::{
                ConnectionId, NodeAction, NodeCommand, NodeEvent, NodeId, NodeInfo, NodeNotice, RoomSid,
            };

            fn info(id: u128, rooms: u32) -> NodeInfo {
                NodeInfo {
                    node: NodeId::from_random(id),
                    region: "eu".into(),
                    rooms,
                    connections: 0,
                    load: 0.5,
                }
            }

            fn command(room: u128, number: u64) -> NodeCommand {
                NodeCommand {
                    room: RoomSid::from_random(room),
                    action: NodeAction::CloseConnection { connection: ConnectionId(number) },
                }
            }

            fn notice(room: u128, number: u64) -> NodeNotice {
                NodeNotice {
                    node: NodeId::from_random(1),
                    room: RoomSid::from_random(room),
                    event: NodeEvent::NegotiationNeeded {
                        connection: ConnectionId(number),
                        missing: Default::default(),
                    },
                }
            }

            #[tokio::test]
            async fn nodes_come_change_and_go() {
                let (bus, _guard) = $open.await;
                assert_eq!(bus.nodes().await.unwrap(), []);
                let mut commands = bus.register_node(info(1, 0)).await.unwrap();
                bus.update_node(info(1, 3)).await.unwrap();
                assert_eq!(bus.nodes().await.unwrap(), [info(1, 3)]);
                bus.deregister_node(&NodeId::from_random(1)).await.unwrap();
                assert_eq!(bus.nodes().await.unwrap(), []);
                assert_eq!(commands.recv().await, None);
                let unknown = BusError::UnknownNode { node: NodeId::from_random(1) };
                assert_eq!(bus.update_node(info(1, 0)).await, Err(unknown));
            }

            #[tokio::test]
            async fn commands_reach_their_node_in_order() {
                let (bus, _guard) = $open.await;
                let mut one = bus.register_node(info(1, 0)).await.unwrap();
                let mut two = bus.register_node(info(2, 0)).await.unwrap();
                for number in 0..100 {
                    bus.command(&NodeId::from_random(1), command(u128::from(number % 3), number))
                        .await
                        .unwrap();
                }
                bus.command(&NodeId::from_random(2), command(9, 9)).await.unwrap();
                for number in 0..100 {
                    assert_eq!(one.recv().await, Some(command(u128::from(number % 3), number)));
                }
                assert_eq!(two.recv().await, Some(command(9, 9)));
            }

            #[tokio::test]
            async fn commands_to_missing_nodes_fail() {
                let (bus, _guard) = $open.await;
                let node = NodeId::from_random(1);
                let unknown = Err(BusError::UnknownNode { node: node.clone() });
                assert_eq!(bus.command(&node, command(1, 1)).await, unknown);
                drop(bus.register_node(info(1, 0)).await.unwrap());
                assert_eq!(bus.command(&node, command(1, 1)).await, unknown);
                assert_eq!(bus.nodes().await.unwrap(), []);
            }

            #[tokio::test]
            async fn registering_again_replaces() {
                let (bus, _guard) = $open.await;
                let mut old = bus.register_node(info(1, 0)).await.unwrap();
                let mut new = bus.register_node(info(1, 7)).await.unwrap();
                bus.command(&NodeId::from_random(1), command(1, 1)).await.unwrap();
                assert_eq!(old.recv().await, None);
                assert_eq!(new.recv().await, Some(command(1, 1)));
                assert_eq!(bus.nodes().await.unwrap(), [info(1, 7)]);
            }

            #[tokio::test(start_paused = true)]
            async fn a_node_that_takes_no_commands_fails_them() {
                let (bus, _guard) = $open.await;
                let mut commands = bus.register_node(info(1, 0)).await.unwrap();
                let node = NodeId::from_random(1);
                let mut sent = 0;
                let error = loop {
                    match bus.command(&node, command(1, sent)).await {
                        Ok(()) => sent += 1,
                        Err(error) => break error,
                    }
                };
                assert_eq!(error, BusError::Overloaded { node: node.clone() });
                assert!(sent as usize >= $crate::COMMAND_QUEUE_MAX);
                for number in 0..sent {
                    assert_eq!(commands.recv().await, Some(command(1, number)));
                }
                bus.command(&node, command(1, 1)).await.unwrap();
            }

            #[tokio::test]
            async fn notices_reach_every_subscriber_of_their_room_in_order() {
                let (bus, _guard) = $open.await;
                let mut one = bus.subscribe_room(&RoomSid::from_random(1)).await.unwrap();
                let mut again = bus.subscribe_room(&RoomSid::from_random(1)).await.unwrap();
                let mut other = bus.subscribe_room(&RoomSid::from_random(2)).await.unwrap();
                for number in 0..100 {
                    bus.notify(notice(1, number)).await.unwrap();
                }
                bus.notify(notice(2, 5)).await.unwrap();
                bus.notify(notice(3, 6)).await.unwrap();
                for number in 0..100 {
                    assert_eq!(one.recv().await, Some(notice(1, number)));
                    assert_eq!(again.recv().await, Some(notice(1, number)));
                }
                assert_eq!(other.recv().await, Some(notice(2, 5)));
                assert!(one.try_recv().is_err() && other.try_recv().is_err());
            }

            #[tokio::test]
            async fn a_dropped_subscription_holds_nobody_up() {
                let (bus, _guard) = $open.await;
                drop(bus.subscribe_room(&RoomSid::from_random(1)).await.unwrap());
                let mut alive = bus.subscribe_room(&RoomSid::from_random(1)).await.unwrap();
                bus.notify(notice(1, 1)).await.unwrap();
                assert_eq!(alive.recv().await, Some(notice(1, 1)));
            }

            #[tokio::test(start_paused = true)]
            async fn a_subscriber_that_takes_nothing_is_cut_off() {
                let (bus, _guard) = $open.await;
                let mut stuck = bus.subscribe_room(&RoomSid::from_random(1)).await.unwrap();
                let rounds = $crate::NOTICE_QUEUE_MAX as u64 * 2;
                for number in 0..rounds {
                    bus.notify(notice(1, number)).await.unwrap();
                }
                let mut received = 0;
                while let Some(notice_received) = stuck.recv().await {
                    assert_eq!(notice_received, notice(1, received));
                    received += 1;
                }
                assert!(received < rounds);
            }
        }
    };
}
