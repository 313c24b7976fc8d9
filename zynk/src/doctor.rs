//! `zynk doctor`: what works between here and a server, and why the rest does not.
//!
//! ```text
//!   site: DNS, TCP, certificate, HTTP ─► token ─► join: relays, addresses of media
//!                                                   ├─► media: each address, over UDP and TCP
//!                                                   └─► relays: each URL, up to media and back
//!                                                        └─► NAT: where all who answered see one socket
//! ```

mod ice;
mod join;
mod link;
mod media;
mod relay;
mod relay_url;
mod report;
mod site;
mod tls;
mod turn_client;
mod verdict;

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use futures_util::future::{join, join_all};
use secrecy::ExposeSecret as _;
use tokio::time::timeout;
use zynk_protocol::livekit::IceServer;

use crate::cli::DoctorArguments;
use crate::{config, token, turn};

use ice::MediaServer;
use join::Pass;
use relay::{Relay, RelayReport};
use relay_url::RelayUrl;
use report::{Check, Report};
use site::Site;
use turn_client::RelayCredentials;
use verdict::{Way, Ways};

/// Where a server is looked for unless something is said.
const DEFAULT_URL: &str = "http://127.0.0.1:7880";

/// How long the way to the server may take to examine, and then all the ways of media together.
const STAGE_TIMEOUT: Duration = Duration::from_secs(8);

/// How long leaving may take: a room that is not removed ends by itself.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Relays that are looked at, by their URLs; the rest is left out, and said.
const RELAYS_MAX: usize = 16;

/// How long credentials last that are made for a relay.
const CREDENTIALS_TTL: Duration = Duration::from_secs(600);

/// What the command prints, and whether a client here could make a call.
pub(crate) async fn execute(arguments: &DoctorArguments) -> Result<(String, bool)> {
    let given = given_relays(arguments)?;
    let report = match (&arguments.url, given.is_empty()) {
        (None, false) => examine_relays(given).await,
        (url, _) => {
            let default = DEFAULT_URL.parse().context("the default is no URL")?;
            let site = Site::new(url.as_ref().unwrap_or(&default))?;
            examine(site, &pass(arguments)?, given).await?
        }
    };
    let text = match arguments.json {
        true => serde_json::to_string(&report)? + "\n",
        false => report.text(),
    };
    Ok((text, report.is_ok()))
}

fn pass(arguments: &DoctorArguments) -> Result<Pass> {
    match &arguments.token {
        Some(token) => Ok(Pass::of_token(token)),
        None => Ok(Pass::of_keys(token::key_ring(&arguments.key)?)?),
    }
}

/// The relays of the command line, with their credentials: those given, or made as `zynk turn credentials` makes them.
fn given_relays(arguments: &DoctorArguments) -> Result<Vec<Relay>> {
    let mut urls = Vec::new();
    for url in &arguments.turn_urls {
        urls.push(RelayUrl::parse(url).map_err(anyhow::Error::msg)?);
    }
    if urls.is_empty() {
        return Ok(Vec::new());
    }
    let credentials = match (&arguments.username, &arguments.credential) {
        (Some(username), Some(credential)) => {
            RelayCredentials { username: username.clone(), credential: credential.clone() }
        }
        (None, None) => {
            let config = config::read(arguments.key.config.as_deref())?;
            let secret = turn::shared_secret(&config, &arguments.key)?;
            let made = secret.credentials("zynk-doctor", CREDENTIALS_TTL, SystemTime::now());
            RelayCredentials {
                username: made.username,
                credential: made.credential.expose_secret().to_owned().into(),
            }
        }
        _ => bail!("--username and --credential go together"),
    };
    Ok(urls.into_iter().map(|url| Relay { url, credentials: Some(credentials.clone()) }).collect())
}

/// Examines a server, the relays that it tells clients, and those given.
async fn examine(mut site: Site, pass: &Pass, given: Vec<Relay>) -> Result<Report> {
    let client = site.client()?;
    let mut checks = Vec::new();
    let reached = timeout(STAGE_TIMEOUT, async {
        let is_reached = site.reach(&mut checks).await
            && site.ask_health(&client, &mut checks).await
            && join::validate(&site, &client, pass, &mut checks).await;
        if is_reached { join::join(&site, pass, &mut checks).await } else { None }
    });
    let stay = reached.await.unwrap_or_else(|_| {
        checks.push(Check::fail("server", "", format!("not done after {} s", STAGE_TIMEOUT.as_secs())));
        None
    });
    let (told, media) = match &stay {
        Some(stay) => (relays_told(&stay.ice_servers, &mut checks), stay.media.clone()),
        None => (Vec::new(), None),
    };
    let relays = [told, given].concat();
    let (ways, media_checks) = examine_media(media.as_ref(), &relays).await;
    checks.extend(media_checks);
    let missing = match (&stay, &media) {
        (None, _) => Some("they cannot join"),
        (Some(_), None) => Some("they are not told where media is"),
        (Some(_), Some(_)) => None,
    };
    if let Some(stay) = stay {
        let _ = timeout(LEAVE_TIMEOUT, stay.leave(&site, &client, pass)).await;
    }
    Ok(match missing {
        Some(missing) => {
            let relays = if ways.any() { format!(" {}", ways.of_relays()) } else { String::new() };
            Report::new(false, format!("Clients here cannot make a call: {missing}.{relays}"), checks)
        }
        None => Report::new(ways.any(), ways.sentence(), checks),
    })
}

/// Examines relays by themselves.
async fn examine_relays(relays: Vec<Relay>) -> Report {
    let (ways, checks) = examine_media(None, &relays).await;
    Report::new(ways.any(), ways.sentence(), checks)
}

/// What signaling tells clients. STUN servers are nothing that a client of ours needs.
fn relays_told(servers: &[IceServer], checks: &mut Vec<Check>) -> Vec<Relay> {
    let mut relays = Vec::new();
    for server in servers {
        for url in server.urls.iter().filter(|url| !url.starts_with("stun")) {
            match RelayUrl::parse(url) {
                Ok(url) => {
                    let credentials = RelayCredentials {
                        username: server.username.clone(),
                        credential: server.credential.clone().into(),
                    };
                    relays.push(Relay { url, credentials: Some(credentials) });
                }
                Err(problem) => {
                    let check = Check::fail("relays", "", problem);
                    checks.push(check.advise("correct it in signaling.relays: no client can use it"));
                }
            }
        }
    }
    let check = match relays.len() {
        0 => Check::skip(
            "relays",
            "",
            "clients are told none: those whose network lets neither UDP nor TCP through \
                                        cannot call",
        ),
        count => Check::ok("relays", "", format!("clients are told {count} addresses of relays")),
    };
    checks.push(check);
    relays
}

/// Tries everything that media can go by, all at once.
async fn examine_media(media: Option<&MediaServer>, relays: &[Relay]) -> (Ways, Vec<Check>) {
    let looks = relays.iter().take(RELAYS_MAX).map(|relay| look_in_time(relay, media));
    let direct = async {
        match media {
            Some(media) => media::try_all(media).await,
            None => Vec::new(),
        }
    };
    let (tried, mut reports) = join(direct, join_all(looks)).await;
    let mut ways = Ways::default();
    for is_tcp in [false, true] {
        if tried.iter().any(|tried| tried.candidate.is_tcp == is_tcp) {
            ways.note(Way::Direct { is_tcp }, media::works(&tried, is_tcp));
        }
    }
    for report in &reports {
        if report.url.transport != relay_url::Transport::Dtls {
            ways.note(Way::Relay(report.url.transport), report.works);
        }
    }
    let mut checks = Vec::new();
    if media.is_some() {
        for is_tcp in [false, true] {
            let others = ways.working(Some(Way::Direct { is_tcp }));
            checks.extend(media::checks(&tried, is_tcp, &others));
        }
    }
    explain_silence(&mut reports);
    let servers: Vec<_> = reports.iter().filter_map(|report| report.stun_server).collect();
    checks.extend(reports.into_iter().flat_map(|report| report.checks));
    if relays.len() > RELAYS_MAX {
        let more = relays.len() - RELAYS_MAX;
        checks.push(Check::skip("relays", "", format!("{more} further ones are left out")));
    }
    if media.is_some() || !relays.is_empty() {
        checks.push(media::nat(&servers, media, &tried).await);
    }
    (ways, checks)
}

async fn look_in_time(relay: &Relay, media: Option<&MediaServer>) -> RelayReport {
    match timeout(STAGE_TIMEOUT, relay::look(relay, media)).await {
        Ok(report) => report,
        Err(_) => RelayReport::unfinished(relay.url.clone(), STAGE_TIMEOUT),
    }
}

/// What gets through to the same host says why something else does not.
fn explain_silence(reports: &mut [RelayReport]) {
    let answering: Vec<(String, String)> = reports
        .iter()
        .filter(|report| report.is_answering())
        .map(|report| (report.url.host.clone(), report.url.transport.to_string()))
        .collect();
    for report in reports {
        let same_host = answering.iter().filter(|(host, _)| *host == report.url.host);
        let mut transports: Vec<_> = same_host.map(|(_, transport)| transport.clone()).collect();
        transports.dedup();
        report.explain_silence(&transports);
    }
}
