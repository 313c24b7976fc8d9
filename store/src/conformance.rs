//! What every backend does alike.

/// Makes a test module `$name` that runs the conformance tests against fresh, empty stores made by
/// `$open`: an expression whose value is a future of a [`crate::Store`] and something to keep until the
/// test's end, such as a temporary directory. The caller's crate needs tokio.
#[macro_export]
macro_rules! store_conformance {
    ($name:ident, $open:expr) => {
        mod $name {
            #[allow(unused_imports)]
            use super::*;
            use $crate::{RoomRecord, Store};
            use zynk_protocol::{RoomName, RoomSid};

            fn record(name: &str, sid: u128) -> RoomRecord {
                RoomRecord::new(RoomName::new(name), RoomSid::from_random(sid), 1_000)
            }

            #[tokio::test]
            async fn an_empty_store_has_no_rooms() {
                let (store, _guard) = $open.await;
                assert_eq!(store.rooms().await.unwrap(), []);
                assert_eq!(store.room(&RoomName::new("lobby")).await.unwrap(), None);
                assert!(!store.delete_room(&RoomName::new("lobby")).await.unwrap());
            }

            #[tokio::test]
            async fn every_field_comes_back() {
                let (store, _guard) = $open.await;
                let room = RoomRecord {
                    metadata: "{\"topic\":\"ünï\\u0000\"}".into(),
                    empty_timeout_s: 300,
                    departure_timeout_s: 20,
                    max_participants: u32::MAX,
                    sync_streams: true,
                    created_at_ms: 1_800_000_000_123,
                    tags: [("a".to_owned(), "1".to_owned()), (String::new(), String::new())].into(),
                    ..record("a room; with 'quotes' and ☃", 9)
                };
                store.put_room(&room).await.unwrap();
                assert_eq!(store.room(&room.name).await.unwrap(), Some(room));
            }

            #[tokio::test]
            async fn put_replaces_by_name() {
                let (store, _guard) = $open.await;
                store.put_room(&record("lobby", 1)).await.unwrap();
                store.put_room(&record("lobby", 2)).await.unwrap();
                assert_eq!(store.rooms().await.unwrap(), [record("lobby", 2)]);
            }

            #[tokio::test]
            async fn create_keeps_what_is_there() {
                let (store, _guard) = $open.await;
                assert_eq!(store.create_room(&record("lobby", 1)).await.unwrap(), record("lobby", 1));
                assert_eq!(store.create_room(&record("lobby", 2)).await.unwrap(), record("lobby", 1));
                assert_eq!(store.rooms().await.unwrap(), [record("lobby", 1)]);
            }

            #[tokio::test]
            async fn names_are_exact_and_listed_in_order() {
                let (store, _guard) = $open.await;
                for name in ["b", "Ä", "a", "B", "a "] {
                    store.put_room(&record(name, 1)).await.unwrap();
                }
                let names: Vec<_> =
                    store.rooms().await.unwrap().into_iter().map(|room| room.name.into_string()).collect();
                assert_eq!(names, ["B", "a", "a ", "b", "Ä"]);
            }

            #[tokio::test]
            async fn deleted_rooms_are_gone() {
                let (store, _guard) = $open.await;
                store.put_room(&record("a", 1)).await.unwrap();
                store.put_room(&record("b", 2)).await.unwrap();
                assert!(store.delete_room(&RoomName::new("a")).await.unwrap());
                assert!(!store.delete_room(&RoomName::new("a")).await.unwrap());
                assert_eq!(store.rooms().await.unwrap(), [record("b", 2)]);
            }

            #[tokio::test]
            async fn concurrent_creations_agree_on_one() {
                let (store, _guard) = $open.await;
                let store = std::sync::Arc::new(store);
                let mut tasks = Vec::new();
                for sid in 0..16 {
                    let store = std::sync::Arc::clone(&store);
                    tasks.push(tokio::spawn(async move {
                        store.create_room(&record("lobby", sid)).await.unwrap()
                    }));
                }
                let winner = store.room(&RoomName::new("lobby")).await.unwrap();
                for task in tasks {
                    let created = task.await.unwrap();
                    assert!(winner.is_none() || winner.as_ref() == Some(&created));
                    assert_eq!(store.room(&created.name).await.unwrap(), Some(created));
                }
            }
        }
    };
}
