//! What holds in a server between any two calls.

use super::TurnServer;
use super::{RESERVATIONS_MAX, Relay};
use crate::io::RelayKey;
use crate::stun::AddressFamily;

impl TurnServer {
    /// Panics if something does not hold that always must: every relay belongs to an allocation, ports are taken by
    /// relays and reservations alone, and all maps agree.
    pub fn check_invariants(&self) {
        self.check_relays();
        self.check_allocations();
        let waiting = self.peer_connections.check_invariants();
        waiting.for_each(|allocation| assert!(self.allocations.contains(allocation), "a connection is left"));
        let ends = self.reservations.iter().map(|reservation| reservation.expires_at);
        assert!(ends.is_sorted() && self.reservations.len() <= RESERVATIONS_MAX, "reservations");
    }

    fn check_relays(&self) {
        for (key, relay) in &self.relays {
            let key = RelayKey(u32::try_from(key).unwrap_or(u32::MAX));
            let owner = self.allocations.get(relay.allocation);
            assert!(owner.is_some_and(|owner| owner.relays.contains(&Some(key))), "{relay:?} is nobody's");
            let announced = self.announced.get(&relay.announced);
            assert_eq!(announced == Some(&key), relay.is_open, "{relay:?}");
        }
        let open = self.relays.iter().filter(|(_, relay)| relay.is_open).count();
        assert_eq!(self.announced.len(), open, "announced addresses");
        for (family, ports) in [AddressFamily::V4, AddressFamily::V6].into_iter().zip(&self.ports) {
            let is_ours = |relay: &&Relay| relay.family == family;
            let relays = self.relays.iter().map(|(_, relay)| relay).filter(is_ours).count();
            let reserved = self.reservations.iter().filter(|known| known.family == family).count();
            assert_eq!(ports.taken(), relays + reserved, "ports of {family:?}");
        }
    }

    fn check_allocations(&self) {
        let (mut attached, mut tickets, mut relays) = (0, 0, 0);
        for (key, allocation) in &self.allocations {
            let ours: Vec<_> = allocation.relays.iter().flatten().collect();
            assert!(!ours.is_empty(), "an allocation without a relay");
            for relay in ours {
                let relay = self.relay(*relay);
                assert!(relay.is_some_and(|relay| relay.allocation == key), "not the allocation's relay");
                assert!(relay.is_some_and(|relay| relay.is_open || !allocation.is_open()));
                relays += 1;
            }
            if allocation.is_attached {
                assert_eq!(self.clients.get(&allocation.five_tuple), Some(&key), "the client's allocation");
                attached += 1;
            }
            if let Some(ticket) = allocation.ticket {
                assert_eq!(self.tickets.get(&ticket), Some(&key), "the ticket's allocation");
                tickets += 1;
            }
            assert!(self.expiries.contains(&(allocation.expires_at, key)), "it never ends");
            assert!(self.users.contains(allocation.user), "nobody's allocation");
            allocation.check_invariants();
        }
        assert_eq!(self.clients.len(), attached, "clients");
        assert_eq!(self.tickets.len(), tickets, "tickets");
        assert_eq!(self.relays.len(), relays, "relays");
        assert_eq!(self.expiries.len(), self.allocations.len(), "ends of allocations");
        assert_eq!(self.user_keys.len(), self.users.len(), "users");
        for (key, user) in &self.users {
            assert_eq!(self.user_keys.get(&user.name), Some(&key), "the user's name");
            let has = self.allocations.iter().filter(|(_, allocation)| allocation.user == key).count();
            assert_eq!(user.allocations as usize, has, "allocations of {}", user.name);
            assert!(has > 0, "a user without an allocation");
        }
    }
}
