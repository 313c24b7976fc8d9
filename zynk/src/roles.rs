//! Starts the roles of this process on the backends that the configuration names, and ends them in order:
//! signaling first, which says goodbye to clients, then the media that those clients still use meanwhile.

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
use zynk_sfu_server::{SfuHandle, SfuHealth};
use zynk_signaling::{Directory, OwnRelay, Relays, WebhookDispatcher};

use crate::config::{Config, Role};

/// How often the media workers are asked whether they still turn.
const HEALTH_INTERVAL: Duration = Duration::from_secs(1);

/// The running roles.
pub(crate) struct Roles {
    sfu: Option<Sfu>,
    signaling: Option<Signaling>,
}

struct Sfu {
    handle: SfuHandle,
    stop: CancellationToken,
}

struct Signaling {
    directory: Directory,
    webhooks: JoinHandle<()>,
    stop_webhooks: CancellationToken,
}

impl Roles {
    /// Starts what the configuration lists. Each registers its metrics and its readiness check.
    pub(crate) async fn start(config: &Config, registry: &mut Registry, ready: &Readiness) -> Result<Self> {
        let bus = zynk_bus::connect(&config.bus).await?;
        let has = |role| config.roles.contains(&role);
        let sfu = if has(Role::Sfu) { Some(start_sfu(config, &bus, registry, ready).await?) } else { None };
        // A relay that runs in this process is told to clients without being configured; none does yet.
        let own_relay: Option<OwnRelay> = None;
        let signaling = if has(Role::Signaling) {
            Some(start_signaling(config, bus, own_relay, registry, ready).await?)
        } else {
            None
        };
        Ok(Self { sfu, signaling })
    }

    /// What they serve over HTTP.
    pub(crate) fn router(&self, config: &Config) -> Router {
        match &self.signaling {
            Some(Signaling { directory, .. }) => zynk_signaling::rtc_router(directory.clone())
                .merge(zynk_signaling::api_router(directory.clone(), config.guests.clone())),
            None => Router::new(),
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

    /// Ends everything: clients get a Leave, webhooks that wait are sent, media threads end. What is not
    /// over when the drain time is, is left behind.
    pub(crate) async fn drain(self, shutdown: &Shutdown) {
        // What is cut off here leaves time for the media to end.
        let limit = shutdown.deadline().saturating_duration_since(Instant::now()).mul_f32(0.8);
        let ended = shutdown.drained_within(limit, async {
            if let Some(Signaling { directory, webhooks, stop_webhooks }) = self.signaling {
                directory.shutdown().await;
                // Unfinished requests may still hold the directory, and so the dispatcher's senders.
                stop_webhooks.cancel();
                let _ = webhooks.await;
            }
        });
        if ended.await.is_none() {
            tracing::warn!("sessions or webhooks were cut off at the end of the drain time");
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
    let directory = Directory::new(Arc::new(config.signaling.clone()), keys, relays, store, bus, sender);
    directory.register_metrics(registry);
    check.pass();
    let stop_webhooks = CancellationToken::new();
    let webhooks = tokio::spawn(dispatcher.run_until(stop_webhooks.clone()));
    Ok(Signaling { directory, webhooks, stop_webhooks })
}
