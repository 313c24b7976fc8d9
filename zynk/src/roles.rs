//! Starts the roles of this process on the backends that the configuration names, and ends them in order:
//! signaling first, which says goodbye to clients, then the media that those clients still use meanwhile, and the relay
//! through which they may reach it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::Router;
use prometheus_client::registry::Registry;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use zynk_auth::KeyRing;
use zynk_bus::Bus;
use zynk_service::http::Readiness;
use zynk_service::shutdown::Shutdown;
use zynk_service::tls::{Certificate, OtherProtocol};
use zynk_sfu_server::{SfuHandle, SfuHealth};
use zynk_signaling::{Directory, OwnRelay, Relays, WebhookDispatcher};
use zynk_turn_server::{ShortCut, TURN_ALPN, TlsClient, TurnHandle};

use crate::certificates;
use crate::config::{Config, Role};

/// How often the media workers are asked whether they still turn.
const HEALTH_INTERVAL: Duration = Duration::from_secs(1);

/// The running roles.
pub(crate) struct Roles {
    sfu: Option<Sfu>,
    signaling: Option<Signaling>,
    turn: Option<TurnHandle>,
}

struct Sfu {
    handle: SfuHandle,
    stop: CancellationToken,
}

struct Signaling {
    directory: Directory,
    relays: Arc<Relays>,
    webhooks: JoinHandle<()>,
    stop_webhooks: CancellationToken,
}

impl Roles {
    /// Starts what the configuration lists. Each registers its metrics and its readiness check. `shared` is the port that
    /// HTTPS and TURN over TLS have together, and its certificate.
    pub(crate) async fn start(
        config: &Config,
        shared: Option<SocketAddr>,
        certificate: Option<&Certificate>,
        registry: &mut Registry,
        ready: &Readiness,
    ) -> Result<Self> {
        let bus = zynk_bus::connect(&config.bus).await?;
        let has = |role| config.roles.contains(&role);
        let sfu = if has(Role::Sfu) { Some(start_sfu(config, &bus, registry, ready).await?) } else { None };
        // It lets clients through to the media of this process.
        let turn = match has(Role::Turn) {
            true => Some(start_turn(config, sfu.as_ref(), certificate, registry, ready)?),
            false => None,
        };
        let own_relay = turn.as_ref().and_then(|turn| own_relay(config, turn, shared));
        let signaling = if has(Role::Signaling) {
            Some(start_signaling(config, bus, own_relay, registry, ready).await?)
        } else {
            None
        };
        Ok(Self { sfu, signaling, turn })
    }

    /// Takes another configuration, as far as that is possible; `certificate` is that of `[tls]`.
    pub(crate) fn reload(&mut self, config: &Config, certificate: Option<&Certificate>) -> Result<()> {
        let Some(turn) = &mut self.turn else { return Ok(()) };
        let keys = config.key_ring();
        turn.reload(&config.turn, &keys, certificate.map(certificates::for_relay).as_ref())?;
        if let (Some(Signaling { relays, .. }), Some(secret)) = (&self.signaling, config.turn.secret(&keys)) {
            relays.set_own_secret(&secret);
        }
        Ok(())
    }

    /// What takes the connections of the shared port that are not HTTP, if this process relays.
    pub(crate) fn tls_protocol(&self) -> Option<OtherProtocol> {
        let door = self.turn.as_ref()?.tls_door();
        let take = move |connection: zynk_service::tls::TlsConnection| {
            let zynk_service::tls::TlsConnection { socket, tls, received, client } = connection;
            if let Err(error) = door.hand_over(TlsClient { socket, tls, received, client }) {
                tracing::debug!(%error, "a relay's client was closed");
            }
        };
        Some(OtherProtocol { alpn: TURN_ALPN, recognizes: zynk_turn_server::is_turn, take: Arc::new(take) })
    }

    /// What they serve over HTTP.
    pub(crate) fn router(&self, config: &Config) -> Router {
        let signaling = match &self.signaling {
            Some(Signaling { directory, .. }) => zynk_signaling::rtc_router(directory.clone())
                .merge(zynk_signaling::api_router(directory.clone(), config.guests.clone())),
            None => Router::new(),
        };
        match &self.turn {
            Some(turn) => {
                signaling.merge(zynk_turn_server::router(turn.control(), Arc::new(config.key_ring())))
            }
            None => signaling,
        }
    }

    /// Whether clients are served here.
    pub(crate) fn has_signaling(&self) -> bool {
        self.signaling.is_some()
    }

    /// The UDP ports of media.
    pub(crate) fn udp_ports(&self) -> Vec<u16> {
        self.sfu.as_ref().map(|sfu| sfu.handle.udp_ports().to_vec()).unwrap_or_default()
    }

    /// The TCP port of media, if there is one.
    pub(crate) fn ice_tcp_port(&self) -> Option<u16> {
        self.sfu.as_ref().and_then(|sfu| sfu.handle.tcp_port())
    }

    /// The relay's port, if it runs.
    pub(crate) fn turn_port(&self) -> Option<u16> {
        let addresses = self.turn.as_ref()?.addresses();
        addresses.udp.first().or(addresses.tcp.first()).map(std::net::SocketAddr::port)
    }

    /// The relay's ports for TLS.
    pub(crate) fn turn_tls_ports(&self) -> Vec<u16> {
        let tls = self.turn.as_ref().map(|turn| turn.addresses().tls.as_slice());
        tls.unwrap_or_default().iter().map(std::net::SocketAddr::port).collect()
    }

    /// The relay's ports for DTLS.
    pub(crate) fn turn_dtls_ports(&self) -> Vec<u16> {
        let dtls = self.turn.as_ref().map(|turn| turn.addresses().dtls.as_slice());
        dtls.unwrap_or_default().iter().map(std::net::SocketAddr::port).collect()
    }

    /// Ends everything: clients get a Leave, webhooks that wait are sent, media threads end. What is not
    /// over when the drain time is, is left behind.
    pub(crate) async fn drain(self, shutdown: &Shutdown) {
        // What is cut off here leaves time for the media to end.
        let limit = shutdown.deadline().saturating_duration_since(Instant::now()).mul_f32(0.8);
        let ended = shutdown.drained_within(limit, async {
            if let Some(Signaling { directory, webhooks, stop_webhooks, .. }) = self.signaling {
                directory.shutdown().await;
                // Unfinished requests may still hold the directory, and so the dispatcher's senders.
                stop_webhooks.cancel();
                let _ = webhooks.await;
            }
        });
        if ended.await.is_none() {
            tracing::warn!("sessions or webhooks were cut off at the end of the drain time");
        }
        if let Some(turn) = self.turn {
            // Calls with other servers go on through it, for as long as may be; those of this process are over.
            if self.sfu.is_none() && shutdown.drained(turn.drain()).await.is_none() {
                tracing::warn!("relayed calls were cut off at the end of the drain time");
            }
            if shutdown.drained(turn.join()).await.is_none() {
                tracing::warn!("the relay was cut off at the end of the drain time");
            }
        }
        if let Some(Sfu { handle, stop }) = self.sfu {
            stop.cancel();
            if shutdown.drained(handle.join()).await.is_none() {
                tracing::warn!("media was cut off at the end of the drain time");
            }
        }
    }
}

async fn start_sfu(
    config: &Config,
    bus: &Arc<dyn Bus>,
    registry: &mut Registry,
    ready: &Readiness,
) -> Result<Sfu> {
    let check = ready.check("sfu");
    let stop = CancellationToken::new();
    let handle = zynk_sfu_server::start(config.sfu.clone(), Arc::clone(bus), registry, stop.clone())
        .await
        .context("media cannot start")?;
    let health: SfuHealth = handle.health();
    let ended = stop.clone();
    tokio::spawn(async move {
        while !ended.is_cancelled() {
            if health.is_ready() {
                check.pass()
            } else {
                check.fail("a media worker does not respond")
            }
            tokio::time::sleep(HEALTH_INTERVAL).await;
        }
    });
    Ok(Sfu { handle, stop })
}

/// What clients are told of the relay of this process.
fn own_relay(config: &Config, turn: &TurnHandle, shared: Option<SocketAddr>) -> Option<OwnRelay> {
    let mut addresses = turn.addresses().clone();
    // Before ports of its own: it is the one that most networks let through.
    addresses.tls.splice(..0, shared);
    let urls = config.turn.urls(&addresses);
    let secret = config.turn.secret(&config.key_ring())?;
    (!urls.is_empty()).then_some(OwnRelay { urls, secret })
}

fn start_turn(
    config: &Config,
    sfu: Option<&Sfu>,
    certificate: Option<&Certificate>,
    registry: &mut Registry,
    ready: &Readiness,
) -> Result<TurnHandle> {
    let check = ready.check("turn");
    let services = sfu.map(|sfu| sfu.handle.udp_addresses()).unwrap_or_default();
    let connect = |waker| {
        let tunnels = sfu.map(|sfu| sfu.handle.tunnels(&waker)).unwrap_or_default();
        tunnels.into_iter().map(|(addresses, tunnel)| ShortCut { addresses, tunnel }).collect()
    };
    let certificate = certificate.map(certificates::for_relay);
    let keys = config.key_ring();
    let handle =
        zynk_turn_server::start(&config.turn, &keys, services, certificate.as_ref(), &connect, registry)
            .context("the relay cannot start")?;
    let health = handle.health();
    tokio::spawn(async move {
        loop {
            match health.is_ready() {
                true => check.pass(),
                false => check.fail("a relay's worker does not respond"),
            }
            tokio::time::sleep(HEALTH_INTERVAL).await;
        }
    });
    Ok(handle)
}

async fn start_signaling(
    config: &Config,
    bus: Arc<dyn Bus>,
    own_relay: Option<OwnRelay>,
    registry: &mut Registry,
    ready: &Readiness,
) -> Result<Signaling> {
    let check = ready.check("signaling");
    let store = zynk_store::connect(&config.store).await?;
    let keys: Arc<KeyRing> = Arc::new(config.key_ring());
    let (sender, dispatcher) = WebhookDispatcher::new(&config.webhooks, Arc::clone(&keys))?;
    let relays = Arc::new(Relays::new(&config.signaling, &keys, own_relay)?);
    let directory =
        Directory::new(Arc::new(config.signaling.clone()), keys, relays.clone(), store, bus, sender);
    directory.register_metrics(registry);
    check.pass();
    let stop_webhooks = CancellationToken::new();
    let webhooks = tokio::spawn(dispatcher.run_until(stop_webhooks.clone()));
    Ok(Signaling { directory, relays, webhooks, stop_webhooks })
}
