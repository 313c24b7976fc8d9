//! Every file of the corpora through its target.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{fs, path::Path};

use zynk_fuzz::{ShardReach, TurnReach, shard_reach, turn_reach};

fn replay(name: &str, mut target: impl FnMut(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let mut files = 0;
    for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.unwrap().path();
        target(&fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())));
        files += 1;
    }
    assert!(files > 0, "{} is empty", folder.display());
    target(&[]);
}

macro_rules! corpora {
    ($($name:ident),*) => {
        $(#[test]
        fn $name() {
            replay(stringify!($name), zynk_fuzz::$name);
        })*
    };
}

corpora!(stun, srtp, rtp, rtcp, payload_descriptors, turn_message);

/// Inputs that end before any media flows would be easy to pass.
#[test]
fn shard_operations() {
    let mut sum = ShardReach::default();
    let mut relaying = 0;
    replay("shard_operations", |input| {
        let reach = shard_reach(input);
        sum.forwarded += reach.forwarded;
        sum.received += reach.received;
        relaying += u32::from(reach.relayed > 0);
    });
    assert!(sum.forwarded > 0 && relaying >= 5, "{sum:?}, {relaying} inputs relay");
    assert!(sum.received > sum.forwarded, "nothing is repeated: {sum:?}");
}

/// Inputs whose clients never get an allocation would be easy to pass as well.
#[test]
fn turn_server() {
    let mut sum = TurnReach::default();
    let mut relaying = 0;
    replay("turn_server", |input| {
        let reach = turn_reach(input);
        sum.allocations += reach.allocations;
        sum.to_peers += reach.to_peers;
        sum.to_clients += reach.to_clients;
        sum.moved += reach.moved;
        sum.spliced += reach.spliced;
        relaying += u32::from(reach.to_peers > 0 && reach.to_clients > 0);
    });
    assert!(sum.allocations > 20 && sum.moved > 0 && sum.spliced > 0, "{sum:?}");
    assert!(relaying >= 3, "{sum:?}, {relaying} inputs relay both ways");
}
