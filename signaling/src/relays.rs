//! Which TURN relays a client is told to use, and what it may use them with.
//!
//! ```text
//!   the region that the client asks for ─┐
//!   the client's address ─► Places ──────┴─► regions, nearest first ─► their URLs, with credentials that end
//! ```
//!
//! A client gets new credentials with each answer that lists servers: when it joins, and when it resumes, which SDKs
//! do before they restart ICE. A relay asks for the end of credentials when an allocation is made and lets what is
//! there go on, so that a call may last longer than they do.
//!
//! The user is the participant's id: a relay's log tells one stay in a call from another, and nobody's name.

mod config;
mod coordinates;
mod places;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use secrecy::ExposeSecret as _;
use zynk_auth::{KeyRing, TurnSecret};
use zynk_protocol::{ParticipantSid, livekit};
use zynk_service::telemetry::Redacted;

use config::is_secure_without_name;
pub use config::{RelayConfig, SignalingConfigError};
use coordinates::{Coordinates, Metres};
use places::Places;
pub use places::PlacesError;

use crate::config::SignalingConfig;

/// Regions that a client is told if nobody knows where it is; it tries them all. Each costs it requests and the relay an
/// allocation.
const UNPLACED_REGIONS_MAX: usize = 4;

/// The relays that clients may be told. Without IO once it is made; nothing changes but the own relay's secret.
#[derive(Debug, Default)]
pub struct Relays {
    /// In the order of the configuration.
    regions: Vec<Region>,
    regions_max: usize,
    credentials_ttl: Duration,
    places: Option<Places>,
}

/// The relay that this process runs itself.
#[derive(Clone, Debug)]
pub struct OwnRelay {
    /// Where clients reach it, as `turn:` and `turns:` URLs. Without any it is not told.
    pub urls: Vec<String>,
    /// What it checks passwords with.
    pub secret: TurnSecret,
}

/// What is known of where a client is.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ClientPlace {
    /// The address that it connects from.
    pub address: Option<IpAddr>,
    /// The region that it asks for.
    pub region: Option<String>,
}

#[derive(Debug)]
struct Region {
    name: String,
    place: Option<Coordinates>,
    servers: Vec<Server>,
    signal_url: String,
    /// Whether the relay of this process is one of its.
    is_own: bool,
}

/// Relays that share a secret.
#[derive(Debug)]
struct Server {
    urls: Vec<String>,
    /// That of the process's own relay may change.
    secret: RwLock<TurnSecret>,
    is_own: bool,
}

/// The relays cannot be told to anybody. The operator's fault.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RelaysError {
    /// The configuration is not one that [`SignalingConfig::check`] passes.
    #[error("signaling.{0}")]
    Config(#[from] SignalingConfigError),
    /// A region has no secret, and there is no API key to make one from.
    #[error("signaling.relays: {region} has no secret, and there is no API key to make one from")]
    NoSecret {
        /// Which.
        region: String,
    },
    /// The file that knows the places of addresses cannot be used.
    #[error("signaling.geoip_database: {path}: {error}")]
    Places {
        /// The file.
        path: String,
        /// What is wrong with it.
        error: PlacesError,
    },
}

impl Relays {
    /// Those of the configuration, and the process's own if it runs one. Reads the file `geoip_database`, if one is
    /// set.
    pub fn new(config: &SignalingConfig, keys: &KeyRing, own: Option<OwnRelay>) -> Result<Self, RelaysError> {
        config.check()?;
        let derived = keys.turn_secrets().into_iter().next();
        let mut regions = Vec::new();
        for relay in &config.relays {
            for url in relay.urls.iter().filter(|url| is_secure_without_name(url)) {
                tracing::warn!(%url, region = %relay.region, "Firefox takes no turns: address without a name");
            }
            let set = relay.secret.as_ref().map(|secret| TurnSecret::new(secret.clone()));
            let secret = set.or_else(|| derived.clone());
            let secret = secret.ok_or_else(|| RelaysError::NoSecret { region: relay.region.clone() })?;
            regions.push(Region {
                name: relay.region.clone(),
                place: relay.coordinates(),
                servers: vec![Server {
                    urls: relay.urls.clone(),
                    secret: RwLock::new(secret),
                    is_own: false,
                }],
                signal_url: relay.signal_url.clone(),
                is_own: false,
            });
        }
        if let Some(OwnRelay { urls, secret }) = own.filter(|own| !own.urls.is_empty()) {
            add_own(&mut regions, &config.region, Server { urls, secret: RwLock::new(secret), is_own: true });
        }
        let places = match config.has_geoip_database() {
            true => Some(open_places(config)?),
            false => None,
        };
        if !regions.is_empty() {
            let kind = places.as_ref().map(Places::database_type);
            let built_at_s = places.as_ref().map(Places::built_at_s);
            let regions = regions.len();
            tracing::info!(regions, geoip_database = kind, built_at_s, "relays are told to clients");
        }
        Ok(Self {
            regions,
            regions_max: config.relay_regions_max,
            credentials_ttl: Duration::from_secs(config.relay_credentials_ttl_s),
            places,
        })
    }

    /// From now on the relay of this process checks passwords with another secret.
    pub fn set_own_secret(&self, secret: &TurnSecret) {
        for server in self.regions.iter().flat_map(|region| &region.servers).filter(|server| server.is_own) {
            *server.secret.write().unwrap_or_else(PoisonError::into_inner) = secret.clone();
        }
    }

    /// The servers that a participant is told, with credentials from `now` on.
    pub(crate) fn ice_servers(
        &self,
        client: &ClientPlace,
        participant: &ParticipantSid,
        now: SystemTime,
    ) -> Vec<livekit::IceServer> {
        let servers = self.chosen(client).into_iter().flat_map(|region| &region.servers);
        servers
            .map(|server| {
                let secret = server.secret.read().unwrap_or_else(PoisonError::into_inner);
                let made = secret.credentials(participant.as_str(), self.credentials_ttl, now);
                livekit::IceServer {
                    urls: server.urls.clone(),
                    username: made.username,
                    credential: made.credential.expose_secret().to_owned(),
                }
            })
            .collect()
    }

    /// Whether some relay is reached by TLS.
    pub(crate) fn has_tls(&self) -> bool {
        let servers = self.regions.iter().flat_map(|region| &region.servers);
        servers.flat_map(|server| &server.urls).any(|url| url.starts_with("turns:"))
    }

    /// The regions whose signaling has an address of its own, nearest first. The distance is in metres, 0 where it is
    /// not known.
    pub(crate) fn settings(&self, client: &ClientPlace) -> livekit::RegionSettings {
        let regions = self.by_distance(client).into_iter();
        let listed = regions.filter(|(region, _)| !region.signal_url.is_empty());
        let regions = listed
            .map(|(region, distance)| livekit::RegionInfo {
                region: region.name.clone(),
                url: region.signal_url.clone(),
                distance: distance.map_or(0, |Metres(metres)| i64::try_from(metres).unwrap_or(i64::MAX)),
            })
            .collect();
        livekit::RegionSettings { regions }
    }

    /// The regions whose relays a client is told: the nearest, and always this process's own.
    fn chosen(&self, client: &ClientPlace) -> Vec<&Region> {
        let is_placed = self.asked(client).is_some() || self.place(client).is_some();
        let max = if is_placed { self.regions_max } else { UNPLACED_REGIONS_MAX };
        let regions = self.by_distance(client).into_iter().map(|(region, _)| region).enumerate();
        regions.filter(|(index, region)| *index < max || region.is_own).map(|(_, region)| region).collect()
    }

    /// All regions: the one that the client asks for, then those whose distance is known by that, then the others in the
    /// order of the configuration.
    fn by_distance(&self, client: &ClientPlace) -> Vec<(&Region, Option<Metres>)> {
        let place = self.place(client);
        let asked = self.asked(client).map(|region| region.name.as_str());
        let distance = |region: &Region| Some(place?.distance(region.place?));
        let mut regions: Vec<_> = self.regions.iter().map(|region| (region, distance(region))).collect();
        // Stable: what is equally far away keeps its order.
        regions.sort_by_key(|(region, distance)| {
            (asked != Some(region.name.as_str()), distance.unwrap_or(Metres(u64::MAX)))
        });
        regions
    }

    fn asked(&self, client: &ClientPlace) -> Option<&Region> {
        let name = client.region.as_ref().filter(|name| !name.is_empty())?;
        self.regions.iter().find(|region| region.name == *name)
    }

    /// Where distances are measured from. What a client asks for goes before what is guessed from its address.
    fn place(&self, client: &ClientPlace) -> Option<Coordinates> {
        let asked = self.asked(client).and_then(|region| region.place);
        asked.or_else(|| self.places.as_ref()?.find(client.address?))
    }
}

/// Adds the process's own relay to its region, before those that are there, or as a region at an unknown place.
fn add_own(regions: &mut Vec<Region>, name: &str, server: Server) {
    match regions.iter_mut().find(|region| region.name == name) {
        Some(region) => {
            region.servers.insert(0, server);
            region.is_own = true;
        }
        None => regions.insert(
            0,
            Region {
                name: name.to_owned(),
                place: None,
                servers: vec![server],
                signal_url: String::new(),
                is_own: true,
            },
        ),
    }
}

fn open_places(config: &SignalingConfig) -> Result<Places, RelaysError> {
    let path = &config.geoip_database;
    Places::open(path).map_err(|error| RelaysError::Places { path: path.display().to_string(), error })
}

/// Addresses do not show.
impl fmt::Debug for ClientPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, region } = self;
        f.debug_struct("ClientPlace")
            .field("address", &address.map(Redacted))
            .field("region", region)
            .finish()
    }
}
