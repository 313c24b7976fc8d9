//! What every role needs at boot.
//!
//! ```
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! use std::time::Duration;
//! use zynk_service::{http, shutdown::Shutdown, telemetry};
//!
//! let shutdown = Shutdown::new(Duration::from_secs(5));
//! let ready = http::Readiness::new();
//! ready.check("example").pass();
//! let listener = http::listen(([127, 0, 0, 1], 0).into())?;
//! let app = http::with_operator_routes(axum::Router::new(), ready, telemetry::registry("0.1.0"), &shutdown);
//! let server = tokio::spawn(http::serve(listener, app, http::HttpConfig::default(), shutdown.clone()));
//! shutdown.trigger();
//! # server.await.unwrap();
//! # Ok::<(), std::io::Error>(())
//! # }).unwrap();
//! ```
//!
//! - [`config`]: defaults, then a TOML file, then the environment, then flags; errors that name the place.
//! - [`telemetry`]: logs and metrics.
//! - [`http`]: the server, its health checks and `/metrics`.
//! - [`tls`]: HTTPS, and other protocols on the same port.
//! - [`shutdown`]: when to stop, and by when.

pub mod config;
pub mod http;
pub mod shutdown;
pub mod telemetry;
pub mod tls;
