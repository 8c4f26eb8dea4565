//! How many handshakes of TLS a node begins for each network. Pure: no clock.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

/// Handshakes of one network each second, in the long run. One costs a node a third of a millisecond or so.
const RATE: u32 = 200;

/// Handshakes of one network at once: the clients of a cluster whose node comes back.
const BURST: u32 = 1_000;

/// The longest that one more is kept waiting, rather than refused.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// Networks that are told apart at most. When there are more, those that begin nothing now are forgotten; if there are
/// none, later networks share one allowance.
const NETWORKS_MAX: usize = 8_192;

/// A /24 of IPv4, or a /64 of IPv6; all zero for the networks that share.
type Network = [u8; 8];

/// When each network's allowance will be whole again.
#[derive(Default)]
pub(super) struct Admission(HashMap<Network, Instant>);

impl Admission {
    /// How long the handshake has to wait for its turn. `None`: for too long.
    pub(super) fn turn(&mut self, address: IpAddr, now: Instant) -> Option<Duration> {
        let mut network = network_of(address);
        if self.0.len() >= NETWORKS_MAX && !self.0.contains_key(&network) {
            self.0.retain(|_, whole| *whole > now);
            if self.0.len() >= NETWORKS_MAX {
                network = [0; 8];
            }
        }
        let whole = self.0.entry(network).or_insert(now);
        let each = Duration::from_secs(1) / RATE;
        let owed = whole.saturating_duration_since(now);
        let wait = (owed + each).saturating_sub(each * BURST);
        if wait > WAIT_MAX {
            return None;
        }
        *whole = now + owed + each;
        Some(wait)
    }
}

fn network_of(address: IpAddr) -> Network {
    let mut network = [0; 8];
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            // Marked, so that none is the one that is shared.
            network[0] = 4;
            network[1..4].copy_from_slice(&v4.octets()[..3]);
        }
        IpAddr::V6(v6) => network.copy_from_slice(&v6.octets()[..8]),
    }
    network
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("it is an address")
    }

    #[test]
    fn a_network_has_its_burst_then_its_rate_and_takes_nothing_from_others() {
        let (mut admission, now) = (Admission::default(), Instant::now());
        let mut turns = |from: &str, count: u32, now| -> Vec<Option<Duration>> {
            (0..count).map(|_| admission.turn(address(from), now)).collect()
        };
        assert!(turns("192.0.2.1", BURST, now).iter().all(|turn| *turn == Some(Duration::ZERO)));
        let waits = turns("192.0.2.200", RATE, now);
        assert_eq!(waits[0], Some(Duration::from_secs(1) / RATE));
        assert_eq!(waits.last(), Some(&Some(Duration::from_secs(1))));
        turns("192.0.2.7", RATE, now);
        assert_eq!(turns("192.0.2.8", 1, now), [None]);
        // Its neighbours do not notice, nor does a mapped address pass for another network.
        assert_eq!(turns("192.0.3.1", 1, now), [Some(Duration::ZERO)]);
        assert_eq!(turns("2001:db8::1", 1, now), [Some(Duration::ZERO)]);
        assert_eq!(turns("::ffff:192.0.2.9", 1, now), [None]);
        let later = now + Duration::from_secs(1);
        assert!(turns("192.0.2.8", RATE, later).iter().all(Option::is_some));
        assert_eq!(turns("192.0.2.8", 1, later), [None]);
    }

    #[test]
    fn the_networks_that_are_remembered_are_bounded() {
        let (mut admission, now) = (Admission::default(), Instant::now());
        for n in 0..100_000u32 {
            let [a, b, c, _] = (n << 8).to_be_bytes();
            let _ = admission.turn(IpAddr::from([a, b, c, 1]), now);
            assert!(admission.0.len() <= NETWORKS_MAX + 1);
        }
        let later = now + Duration::from_secs(10);
        assert_eq!(admission.turn(address("203.0.113.1"), later), Some(Duration::ZERO));
        assert!(admission.0.len() <= 2);
    }
}
