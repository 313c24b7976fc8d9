//! Build, run, drain.

use anyhow::{Context as _, Result};
use serde::Serialize;
use zynk_service::http::{self, Readiness};
use zynk_service::shutdown::Shutdown;
use zynk_service::telemetry;

use crate::config::Config;
use crate::roles::Roles;
use crate::web;

/// File descriptors that the process asks for: a few per session, with room to spare.
const FILE_DESCRIPTORS: u64 = 65_536;

/// How the process was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// `zynk dev`: whoever reaches it gets in.
    Dev,
    /// `zynk run`.
    Run,
}

/// The line of `--print-ports`.
#[derive(Debug, Serialize)]
struct Ports {
    http: u16,
    ice_tcp: Option<u16>,
    udp: Vec<u16>,
    turn: Option<u16>,
    turn_tls: Vec<u16>,
    turn_dtls: Vec<u16>,
}

/// Serves until the process is told to stop.
pub(crate) async fn run(config: Config, print_ports: bool, mode: Mode) -> Result<()> {
    telemetry::init(&config.log)?;
    // Less than asked for is no error: the limit on connections holds either way.
    if let Err(error) = rlimit::increase_nofile_limit(FILE_DESCRIPTORS) {
        tracing::warn!(%error, "cannot raise the limit on open files");
    }
    let shutdown = Shutdown::new(std::time::Duration::from_secs(config.shutdown_timeout_s));
    shutdown.listen_for_signals().context("cannot listen for signals")?;

    let ready = Readiness::new();
    let mut registry = telemetry::registry(env!("CARGO_PKG_VERSION"));
    let roles = Roles::start(&config, &mut registry, &ready).await?;
    let address = std::net::SocketAddr::new(config.bind, config.port);
    let listener = http::listen(address).with_context(|| format!("cannot listen on {address}"))?;
    let address = listener.local_addr()?;

    let app = http::with_operator_routes(roles.router(&config), ready, registry, &shutdown);
    let app = if roles.has_signaling() { app.merge(web::router()) } else { app };
    let app = zynk_signaling::collapse_slashes(app);
    let http = tokio::spawn(http::serve(listener, app, config.http.clone(), shutdown.clone()));

    if mode == Mode::Dev && !config.bind.is_loopback() {
        tracing::warn!("the key `devkey` is public: whoever reaches {address} controls this server");
    }
    tracing::info!(url = %format!("http://{address}/"), version = env!("CARGO_PKG_VERSION"), "ready");
    if print_ports {
        let ports = Ports {
            http: address.port(),
            ice_tcp: roles.ice_tcp_port(),
            udp: roles.udp_ports(),
            turn: roles.turn_port(),
            turn_tls: roles.turn_tls_ports(),
            turn_dtls: roles.turn_dtls_ports(),
        };
        crate::print(&(serde_json::to_string(&ports)? + "\n"))?;
    }

    shutdown.triggered().await;
    roles.drain(&shutdown).await;
    http.await.context("the HTTP server failed")?;
    tracing::info!("stopped");
    Ok(())
}
