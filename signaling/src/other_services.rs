//! LiveKit's further services, which this server does not offer: after the token has been checked, every
//! method answers `unimplemented`, so that SDKs and tools show what is the matter.

use zynk_auth::Claims;

use crate::twirp::{TwirpCode, TwirpError, permission_denied};

/// What a token must grant for a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NeededGrant {
    RoomRecord,
    IngressAdmin,
    SipAdmin,
    SipCall,
    /// `sip.call` and `roomAdmin`.
    SipTransfer,
    RoomAdmin,
}

const EGRESS: [&str; 10] = [
    "StartEgress",
    "UpdateLayout",
    "UpdateStream",
    "ListEgress",
    "StopEgress",
    "StartRoomCompositeEgress",
    "StartWebEgress",
    "StartParticipantEgress",
    "StartTrackCompositeEgress",
    "StartTrackEgress",
];

const INGRESS: [&str; 4] = ["CreateIngress", "UpdateIngress", "ListIngress", "DeleteIngress"];

const SIP_ADMIN: [&str; 14] = [
    "ListSIPTrunk",
    "CreateSIPInboundTrunk",
    "CreateSIPOutboundTrunk",
    "UpdateSIPInboundTrunk",
    "UpdateSIPOutboundTrunk",
    "GetSIPInboundTrunk",
    "GetSIPOutboundTrunk",
    "ListSIPInboundTrunk",
    "ListSIPOutboundTrunk",
    "DeleteSIPTrunk",
    "CreateSIPDispatchRule",
    "UpdateSIPDispatchRule",
    "ListSIPDispatchRule",
    "DeleteSIPDispatchRule",
];

const AGENT_DISPATCH: [&str; 3] = ["CreateDispatch", "DeleteDispatch", "ListDispatch"];

/// What `service`'s `method` needs; none when there is no such method.
pub(crate) fn grant(service: &str, method: &str) -> Option<NeededGrant> {
    match service {
        "livekit.Egress" if EGRESS.contains(&method) => Some(NeededGrant::RoomRecord),
        "livekit.Ingress" if INGRESS.contains(&method) => Some(NeededGrant::IngressAdmin),
        "livekit.SIP" if SIP_ADMIN.contains(&method) => Some(NeededGrant::SipAdmin),
        "livekit.SIP" if method == "CreateSIPParticipant" => Some(NeededGrant::SipCall),
        "livekit.SIP" if method == "TransferSIPParticipant" => Some(NeededGrant::SipTransfer),
        "livekit.AgentDispatchService" if AGENT_DISPATCH.contains(&method) => Some(NeededGrant::RoomAdmin),
        _ => None,
    }
}

/// The answer to a call whose token has been verified.
pub(crate) fn call(claims: &Claims, service: &str, method: &str) -> TwirpError {
    let sip = claims.sip.as_ref();
    let (granted, name) = match grant(service, method) {
        Some(NeededGrant::RoomRecord) => (claims.video.room_record, "roomRecord"),
        Some(NeededGrant::IngressAdmin) => (claims.video.ingress_admin, "ingressAdmin"),
        Some(NeededGrant::SipAdmin) => (sip.is_some_and(|sip| sip.admin), "sip.admin"),
        Some(NeededGrant::SipCall) => (sip.is_some_and(|sip| sip.call), "sip.call"),
        Some(NeededGrant::SipTransfer) => {
            (sip.is_some_and(|sip| sip.call) && claims.video.room_admin, "sip.call and roomAdmin")
        }
        Some(NeededGrant::RoomAdmin) => (claims.video.room_admin, "roomAdmin"),
        None => return TwirpError::new(TwirpCode::BadRoute, "no such method"),
    };
    if !granted {
        return permission_denied(name);
    }
    TwirpError::new(TwirpCode::Unimplemented, format!("{service}/{method} is not offered by this server"))
}

#[cfg(test)]
pub(crate) fn all_methods() -> impl Iterator<Item = (&'static str, &'static str)> {
    let of = |service: &'static str, methods: &'static [&'static str]| {
        methods.iter().map(move |method| (service, *method))
    };
    of("livekit.Egress", &EGRESS)
        .chain(of("livekit.Ingress", &INGRESS))
        .chain(of("livekit.SIP", &SIP_ADMIN))
        .chain(of("livekit.SIP", &["CreateSIPParticipant", "TransferSIPParticipant"]))
        .chain(of("livekit.AgentDispatchService", &AGENT_DISPATCH))
}
