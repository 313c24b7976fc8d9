//! Build, run, drain.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use zynk_service::http::{self, HttpServer, Readiness};
use zynk_service::shutdown::Shutdown;
use zynk_service::telemetry;
use zynk_service::tls::{AcmeClient, Certificate, TlsAcceptor};

use crate::certificates::{self, Watched};
use crate::config::Source;
use crate::reload::Reloader;
use crate::roles::Roles;
use crate::web;

/// File descriptors that the process asks for: a few per session, with room to spare.
const FILE_DESCRIPTORS: u64 = 65_536;

/// The line of `--print-ports`.
#[derive(Debug, Serialize)]
struct Ports {
    http: u16,
    https: Option<u16>,
    ice_tcp: Option<u16>,
    udp: Vec<u16>,
    turn: Option<u16>,
    turn_tls: Vec<u16>,
    turn_dtls: Vec<u16>,
}

/// Serves until the process is told to stop.
pub(crate) async fn run(source: Source, print_ports: bool) -> Result<()> {
    let config = source.load()?;
    let log = telemetry::init(&config.log)?;
    // Less than asked for is no error: the limit on connections holds either way.
    if let Err(error) = rlimit::increase_nofile_limit(FILE_DESCRIPTORS) {
        tracing::warn!(%error, "cannot raise the limit on open files");
    }
    let shutdown = Shutdown::new(std::time::Duration::from_secs(config.shutdown_timeout_s));
    shutdown.listen_for_signals().context("cannot listen for signals")?;
    // `zynk dev` ends with its terminal, as programs do.
    let mut hangup = match source {
        Source::Dev(_) => None,
        Source::Run(_) => Some(signal(SignalKind::hangup()).context("cannot listen for signals")?),
    };

    let ready = Readiness::new();
    let mut registry = telemetry::registry(env!("CARGO_PKG_VERSION"));
    // Whatever is in the files from here on is seen: now, or as a change.
    let mut watched = Watched::default();
    watched.have_changed(&config).await;
    let acme = AcmeClient::new(&config.tls.acme).context("[tls.acme]")?;
    let cached = acme.as_ref().and_then(AcmeClient::certificate).cloned();
    let certificate = cached.or(certificates::read(&config.tls)?);
    // Before the roles: clients are told the port.
    let tls_listener =
        if config.tls.enabled { Some(listen(config.tls.bind, config.tls.port)?) } else { None };
    let tls_address = tls_listener.as_ref().map(TcpListener::local_addr).transpose()?;
    let mut roles = Roles::start(&config, tls_address, certificate.as_ref(), &mut registry, &ready).await?;
    let listener = listen(config.bind, config.port)?;
    let address = listener.local_addr()?;

    let app = http::with_operator_routes(roles.router(&config), ready, registry, &shutdown);
    let app = if roles.has_signaling() { app.merge(web::router()) } else { app };
    let app = zynk_signaling::collapse_slashes(app);
    let server = HttpServer::new(app, &config.http, shutdown.clone());
    let http = tokio::spawn(server.clone().serve(listener));
    let mut acceptor = None;
    let mut https = None;
    if let Some(listener) = tls_listener {
        let made = acceptor.insert(tls_acceptor(certificate.as_ref(), &roles)?);
        https = Some(tokio::spawn(server.serve_tls(listener, made.clone())));
    }

    if matches!(source, Source::Dev(_)) && !config.bind.is_loopback() {
        tracing::warn!("the key `devkey` is public: whoever reaches {address} controls this server");
    }
    tracing::info!(
        url = %format!("http://{address}/"),
        tls_url = tls_address.map(|address| format!("https://{address}/")),
        version = env!("CARGO_PKG_VERSION"),
        "ready"
    );
    if print_ports {
        let ports = Ports {
            http: address.port(),
            https: tls_address.as_ref().map(SocketAddr::port),
            ice_tcp: roles.ice_tcp_port(),
            udp: roles.udp_ports(),
            turn: roles.turn_port(),
            turn_tls: roles.turn_tls_ports(),
            turn_dtls: roles.turn_dtls_ports(),
        };
        crate::print(&(serde_json::to_string(&ports)? + "\n"))?;
    }

    let (renewed, mut renewals) = mpsc::channel(1);
    if let (Some(acme), Some(acceptor)) = (acme, &acceptor) {
        tokio::spawn(acme.run(acceptor.clone(), renewed));
    }
    let mut reloader = Reloader::new(source, config, log, acceptor, certificate, watched);
    loop {
        let look = tokio::time::sleep(reloader.certificate_check_interval());
        tokio::select! {
            () = shutdown.triggered() => break,
            () = hung_up(&mut hangup) => reloader.reload(&mut roles).await,
            Some(certificate) = renewals.recv() => reloader.renewed(certificate, &mut roles),
            () = look => reloader.look_at_certificates(&mut roles).await,
        }
    }
    roles.drain(&shutdown).await;
    http.await.context("the HTTP server failed")?;
    if let Some(https) = https {
        https.await.context("the HTTPS server failed")?;
    }
    tracing::info!("stopped");
    Ok(())
}

/// Waits for the next SIGHUP; for ever if nobody listens for it.
async fn hung_up(hangup: &mut Option<Signal>) {
    match hangup {
        Some(hangup) => _ = hangup.recv().await,
        None => std::future::pending().await,
    }
}

fn listen(bind: IpAddr, port: u16) -> Result<TcpListener> {
    let address = SocketAddr::new(bind, port);
    http::listen(address).with_context(|| format!("cannot listen on {address}"))
}

fn tls_acceptor(certificate: Option<&Certificate>, roles: &Roles) -> Result<TlsAcceptor> {
    let made = match certificate {
        Some(certificate) => certificate.clone(),
        None => {
            tracing::warn!("[tls] has no certificate yet: one is shown that nobody trusts");
            Certificate::self_signed()?
        }
    };
    Ok(TlsAcceptor::new(&made, roles.tls_protocol())?)
}
