//! What a bad network does to datagrams: delay, jitter, losses that stand alone or come in bursts, reordering,
//! duplicates, a limited rate with a queue before it, and changes of all that over time.
//!
//! ```
//! use std::time::{Duration, Instant};
//! use zynk_netlab::{Bitrate, Link, LinkConfig};
//!
//! let config = LinkConfig {
//!     delay: Duration::from_millis(20),
//!     rate: Bitrate::from_kbps(1000),
//!     ..LinkConfig::IDEAL
//! };
//! let start = Instant::now();
//! let mut link = Link::new(config, 7, start);
//! link.send(start, 1250, "hello"); // takes 10 ms at this rate
//! let arrived = link.poll(start + Duration::from_secs(1)).unwrap();
//! assert_eq!((arrived.payload, arrived.at - start), ("hello", Duration::from_millis(30)));
//! ```
//!
//! - [`Link`]: the model, one direction, sans-IO. A seed and the times of its inputs decide what it does.
//! - [`FlowLink`]: the same for simulations, with random numbers of its own for each flow.
//! - [`proxy`] (feature `proxy`): a UDP proxy on real sockets whose datagrams pass such links, and the program
//!   `netlab` around it (`docs/how-to/netlab.md`).

mod flows;
mod link;
#[cfg(feature = "proxy")]
pub mod proxy;
mod units;

pub use flows::FlowLink;
pub use link::{
    DATAGRAM_COST_BYTES, DelayHistogram, DelayPercentiles, Delivery, GilbertElliott, HELD_BYTES_MAX,
    JitterDistribution, Link, LinkConfig, LinkConfigError, LinkStats, Loss, QUEUE_TIME_DEFAULT,
    REORDER_DELAY_DEFAULT, REPEAT_MIN, Step,
};
pub use units::{Bitrate, Probability, ProbabilityError};
