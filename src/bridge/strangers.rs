//! Peers that have not shown yet that they have the key, and which of them has to go when there are too many.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    time::Duration,
};

use tokio::{io::AsyncReadExt, sync::oneshot};

use super::stream::Stream;
use crate::host::Host;

/// Strangers, at most; fewer where the process may have few descriptors, for clients need some as well.
const STRANGERS_MAX: usize = 16_384;

/// The network that an address is taken to be of: one that sends many strangers has its own dropped, and no others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Prefix {
    V4([u8; 3]),
    V6([u8; 8]),
}

impl Prefix {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => {
                let [a, b, c, _] = address.octets();
                Self::V4([a, b, c])
            }
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

/// Those there are. A stranger whose sender is dropped is not listened to any more.
pub(super) struct Strangers {
    max: usize,
    ever: u64,
    places: HashMap<u64, (Prefix, usize)>,
    of_prefix: HashMap<Prefix, Vec<(u64, oneshot::Sender<()>)>>,
    /// Each prefix with how many it has.
    most: BTreeSet<(usize, Prefix)>,
}

impl Strangers {
    pub(super) fn new(max: usize) -> Self {
        Self { max, ever: 0, places: HashMap::new(), of_prefix: HashMap::new(), most: BTreeSet::new() }
    }

    /// Takes one in. `draw` gives a random number, for one that has to go if there is no room.
    pub(super) fn add(&mut self, address: IpAddr, stays: oneshot::Sender<()>, draw: impl FnOnce() -> u64) -> u64 {
        if self.places.len() >= self.max {
            self.evict(draw());
        }
        let (number, prefix) = (self.ever, Prefix::of(address));
        self.ever += 1;
        let those = self.of_prefix.entry(prefix).or_default();
        self.most.remove(&(those.len(), prefix));
        self.places.insert(number, (prefix, those.len()));
        those.push((number, stays));
        self.most.insert((those.len(), prefix));
        number
    }

    /// Drops one of the prefix that has most. Not the oldest, which may be about to prove itself: who comes from far away
    /// takes its time, and a flood from the same prefix, if it is as fast as that, leaves it a fair chance only.
    pub(super) fn evict(&mut self, random: u64) {
        let Some((count, prefix)) = self.most.last().copied() else { return };
        let which = usize::try_from(random % count as u64).unwrap_or(0);
        let number = self.of_prefix.get(&prefix).and_then(|those| those.get(which)).map(|(number, _)| *number);
        if let Some(number) = number {
            self.remove(number);
        }
    }

    /// It is a stranger no more, or gone.
    pub(super) fn remove(&mut self, number: u64) {
        let Some((prefix, place)) = self.places.remove(&number) else { return };
        let Some(those) = self.of_prefix.get_mut(&prefix) else { return };
        self.most.remove(&(those.len(), prefix));
        drop(those.swap_remove(place));
        if let Some((moved, _)) = those.get(place) {
            self.places.insert(*moved, (prefix, place));
        }
        if those.is_empty() {
            self.of_prefix.remove(&prefix);
        } else {
            self.most.insert((those.len(), prefix));
        }
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn clear(&mut self) {
        *self = Self { ever: self.ever, ..Self::new(self.max) };
    }
}

/// Half of the descriptors that this process may have, and no more than [`STRANGERS_MAX`].
pub(super) fn strangers_max() -> usize {
    let half = descriptors_max().map_or(STRANGERS_MAX, |descriptors| descriptors / 2);
    half.clamp(16, STRANGERS_MAX)
}

#[cfg(unix)]
fn descriptors_max() -> Option<usize> {
    use rustix::process::{Resource, getrlimit};
    getrlimit(Resource::Nofile).current.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

#[cfg(not(unix))]
fn descriptors_max() -> Option<usize> {
    None
}

/// Lets a refused peer read why before the connection is reset: it is, if bytes are left unread when it is closed.
pub(super) async fn let_read(mut stream: Box<dyn Stream>, host: &Host) {
    let mut bytes = [0; 1024];
    let drained = async { while stream.read(&mut bytes).await.is_ok_and(|count| count > 0) {} };
    // A peer that keeps sending is not listened to for longer.
    let _ = host.timeout(Duration::from_millis(500), drained).await;
}

/// For the choice of one that has to go.
pub(super) fn random(host: &Host) -> u64 {
    // Without randomness the choice can be foreseen, which is no reason to take nobody in.
    let mut bytes = [0; 8];
    host.fill(&mut bytes).map_or(0, |()| u64::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(strangers: &mut Strangers, address: &str, random: u64) -> oneshot::Receiver<()> {
        let (stays, dismissed) = oneshot::channel();
        strangers.add(address.parse().expect("it is an address"), stays, || random);
        dismissed
    }

    fn is_dismissed(stranger: &mut oneshot::Receiver<()>) -> bool {
        matches!(stranger.try_recv(), Err(oneshot::error::TryRecvError::Closed))
    }

    #[test]
    fn a_flood_costs_strangers_of_its_own_prefix_only() {
        let mut strangers = Strangers::new(10);
        let mut others: Vec<_> = ["10.0.1.1", "::ffff:10.0.1.2", "2001:db8::1"]
            .map(|address| add(&mut strangers, address, 0))
            .into_iter()
            .collect();
        let mut flood: Vec<_> =
            (0..1_000).map(|n| add(&mut strangers, &format!("10.0.2.{}", n % 250), n * 7_919)).collect();
        assert_eq!(
            (strangers.len(), others.iter_mut().filter_map(|other| is_dismissed(other).then_some(())).count()),
            (10, 0)
        );
        assert_eq!(flood.iter_mut().filter_map(|one| (!is_dismissed(one)).then_some(())).count(), 7);
    }

    #[test]
    fn of_one_prefix_any_may_go() {
        let mut survived = [0; 2];
        for seed in 0..1_000 {
            let mut strangers = Strangers::new(2);
            let mut two = [add(&mut strangers, "10.0.2.1", 0), add(&mut strangers, "10.0.2.2", 0)];
            let _third = add(&mut strangers, "10.0.2.3", seed);
            for (count, stranger) in survived.iter_mut().zip(&mut two) {
                *count += usize::from(!is_dismissed(stranger));
            }
        }
        assert_eq!(survived, [500, 500]);
    }
}
