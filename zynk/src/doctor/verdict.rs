//! What works, in a sentence.

use super::relay_url::Transport;

/// A way for media.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Direct { is_tcp: bool },
    Relay(Transport),
}

impl Way {
    /// What it is called.
    pub(super) fn name(self) -> String {
        match self {
            Self::Direct { is_tcp: false } => "UDP".to_owned(),
            Self::Direct { is_tcp: true } => "TCP".to_owned(),
            Self::Relay(transport) => format!("a relay over {transport}"),
        }
    }

    /// How clients connect by it.
    fn phrase(self) -> String {
        match self {
            Self::Direct { .. } => format!("over {}", self.name()),
            Self::Relay(_) => format!("through {}", self.name()),
        }
    }

    /// How they connect if it is all that there is.
    fn phrase_alone(self) -> String {
        match self {
            Self::Relay(transport @ (Transport::Tls | Transport::Dtls)) => {
                format!("over {transport} only, through a relay")
            }
            other => format!("{} only", other.phrase()),
        }
    }
}

/// What was tried, and whether it works.
#[derive(Debug, Default)]
pub(super) struct Ways {
    tried: Vec<(Way, bool)>,
}

impl Ways {
    /// A way works if one of its kind does.
    pub(super) fn note(&mut self, way: Way, works: bool) {
        match self.tried.iter_mut().find(|(known, _)| *known == way) {
            Some((_, known)) => *known |= works,
            None => self.tried.push((way, works)),
        }
    }

    /// The names of those that work, `but` one.
    pub(super) fn working(&self, but: Option<Way>) -> Vec<String> {
        let others = self.tried.iter().filter(|(way, works)| *works && Some(*way) != but);
        others.map(|(way, _)| way.name()).collect()
    }

    /// Whether one works.
    pub(super) fn any(&self) -> bool {
        self.tried.iter().any(|(_, works)| *works)
    }

    /// What there is to say where relays work, and nothing else was tried.
    pub(super) fn of_relays(&self) -> String {
        format!("What works: {}.", self.working(None).join(", "))
    }

    /// The closing sentence.
    pub(super) fn sentence(&self) -> String {
        let names = |wanted: bool| {
            let some = self.tried.iter().filter(|(_, works)| *works == wanted);
            some.map(|(way, _)| way.name()).collect::<Vec<_>>()
        };
        let broken = match names(false) {
            broken if broken.is_empty() => String::new(),
            broken => format!(" What does not work: {}.", broken.join(", ")),
        };
        let mut working = self.tried.iter().filter(|(_, works)| *works).map(|(way, _)| *way);
        match (working.next(), working.next()) {
            (None, _) if self.tried.is_empty() => "There is no way for media to try.".to_owned(),
            (None, _) => format!("Clients here cannot make a call: no way for media works.{broken}"),
            (Some(only), None) => format!("Clients here connect {}.{broken}", only.phrase_alone()),
            (Some(first), Some(_)) => {
                let (first, rest) = (first.phrase(), names(true).split_off(1));
                format!("Clients here connect {first}; this works too: {}.{broken}", rest.join(", "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UDP: Way = Way::Direct { is_tcp: false };
    const TCP: Way = Way::Direct { is_tcp: true };
    const RELAY: Way = Way::Relay(Transport::Udp);
    const TLS: Way = Way::Relay(Transport::Tls);

    fn sentence(tried: &[(Way, bool)]) -> String {
        let mut ways = Ways::default();
        tried.iter().for_each(|(way, works)| ways.note(*way, *works));
        assert_eq!(ways.any(), tried.iter().any(|(_, works)| *works));
        ways.sentence()
    }

    #[test]
    fn what_works_is_said_in_words() {
        assert_eq!(
            sentence(&[(UDP, true), (TCP, true), (RELAY, true), (RELAY, false)]),
            "Clients here connect over UDP; this works too: TCP, a relay over UDP."
        );
        assert_eq!(
            sentence(&[(UDP, false), (TCP, false), (RELAY, false), (TLS, true)]),
            "Clients here connect over TLS only, through a relay. What does not work: UDP, TCP, a relay over UDP."
        );
        assert_eq!(
            sentence(&[(UDP, false), (TCP, true)]),
            "Clients here connect over TCP only. What does not work: UDP."
        );
        assert_eq!(sentence(&[(RELAY, true)]), "Clients here connect through a relay over UDP only.");
        assert_eq!(
            sentence(&[(RELAY, true), (TLS, true)]),
            "Clients here connect through a relay over UDP; this works too: a relay over TLS."
        );
        assert_eq!(
            sentence(&[(UDP, false)]),
            "Clients here cannot make a call: no way for media works. What does not work: UDP."
        );
        assert_eq!(sentence(&[]), "There is no way for media to try.");
    }
}
