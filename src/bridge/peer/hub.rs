//! What a hub knows, on its thread: whom it expects, who came, and which connections there are.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    mem::take,
    pin::pin,
    rc::Rc,
    sync::{Arc, Weak},
    time::Duration,
};

use futures::{
    StreamExt,
    future::{Either, pending, select, try_join_all},
    stream::FuturesUnordered,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{mpsc, oneshot},
};

use super::{
    PeerHubError, PeerLimits,
    drive::{Drive, FAREWELL_LIMIT},
    secret::key_of,
};
use crate::{
    bridge::{
        backoff::Backoff,
        encryption::{ClientEncryption, NodeEncryption},
        frame::Integrity,
        handshake::{ClientSide, Established, Keys, NodeSide},
        hello::HelloError,
        key::{Key, KeyId},
        strangers::{Strangers, let_read, random},
        stream::{Dial, Dialled, Stream},
        tcp::{Listening, TcpDial},
    },
    host::{Host, LocalTasks},
    peer::{Broken, Link, Meet, Peers},
};

/// Those that have proven nothing yet, at most.
const STRANGERS_MAX: usize = 256;

/// After a connection could not be accepted.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// The longest wait before another worker is dialled again.
const DIAL_RETRY_MAX: Duration = Duration::from_millis(200);

/// What the worker of the lower number says first, on that connection with the other one that is to be theirs.
const CHOSEN: u8 = 1;

/// A connection that the other end has proven to be the one that is meant.
type Proven = Established<()>;

/// Those that come from the other worker.
type Arrivals = mpsc::UnboundedReceiver<Proven>;

/// Why the other worker was not reached, as far as is known.
type Failure = RefCell<Option<String>>;

/// The part of a [`PeerHub`](super::PeerHub) that lives on its thread.
pub(super) struct Hub {
    host: Host,
    limits: PeerLimits,
    client: ClientEncryption,
    node: NodeEncryption,
    expected: Expected,
    strangers: RefCell<Strangers>,
    meetings: RefCell<LocalTasks>,
    drives: RefCell<LocalTasks>,
    /// Whose drives these are.
    links: RefCell<Vec<Weak<Link>>>,
}

/// The connections that are waited for, by the keys that prove them.
struct Expected {
    by_key: RefCell<BTreeMap<KeyId, (Key, mpsc::UnboundedSender<Proven>)>>,
    /// Stands in for keys that are not known, so that to refuse one takes as long as to refuse a wrong proof.
    decoy: Key,
}

impl Keys for Expected {
    type Identity = KeyId;

    fn find(&self, id: KeyId) -> (Key, Option<KeyId>) {
        match self.by_key.borrow().get(&id) {
            Some((key, _)) => (key.clone(), Some(id)),
            None => (self.decoy.clone(), None),
        }
    }
}

impl Hub {
    pub(super) fn new(always_encrypted: bool, limits: PeerLimits, host: &Host) -> Result<Rc<Self>, PeerHubError> {
        #[cfg(feature = "tls")]
        let node = {
            let mut seed = [0; 32];
            crate::host::fill_secret(&mut seed)?;
            let identity = crate::bridge::tls::RawIdentity::of_seed(&seed);
            let identity = identity.map_err(|error| PeerHubError::Encryption { message: error.to_string() })?;
            NodeEncryption::new(always_encrypted, identity, None)
        };
        #[cfg(not(feature = "tls"))]
        let node = NodeEncryption::none();
        Ok(Rc::new(Self {
            host: host.clone(),
            limits,
            client: ClientEncryption::without_certificate(always_encrypted),
            node,
            expected: Expected { by_key: RefCell::default(), decoy: Key::generate() },
            strangers: RefCell::new(Strangers::new(STRANGERS_MAX)),
            meetings: RefCell::default(),
            drives: RefCell::default(),
            links: RefCell::default(),
        }))
    }

    /// Accepts connections.
    pub(super) async fn accept(self: Rc<Self>, listening: Listening) {
        loop {
            match listening.accept().await {
                Ok(dialled) => {
                    self.host.spawn_local(Rc::clone(&self).hear(dialled));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection of another worker could not be accepted");
                    // It may be for want of a descriptor; nothing tells when there is one again.
                    self.make_room();
                    self.host.sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    fn make_room(&self) {
        let mut strangers = self.strangers.borrow_mut();
        for _ in 0..strangers.len().div_ceil(8) {
            strangers.evict(random(&self.host));
        }
    }

    async fn hear(self: Rc<Self>, dialled: Dialled) {
        let Some(from) = dialled.from else { return };
        let (stays, dismissed) = oneshot::channel();
        let number = self.strangers.borrow_mut().add(from.ip(), stays, || random(&self.host));
        // Either it is over, or another stranger takes its place.
        let _ = select(pin!(self.make_sure(dialled)), dismissed).await;
        self.strangers.borrow_mut().remove(number);
    }

    async fn make_sure(&self, dialled: Dialled) {
        let side = NodeSide { keys: &self.expected, incarnation: 0, encryption: &self.node, host: &self.host };
        match self.host.timeout(self.limits.hello, side.accept(dialled)).await {
            Ok(Ok(Established { peer: (_, key), stream, integrity })) => {
                // It may have given up meanwhile; the other one sees it by the end of the connection.
                if let Some((_, arrived)) = self.expected.by_key.borrow().get(&key) {
                    let _ = arrived.send(Established { peer: (), stream, integrity });
                }
            }
            Ok(Err((error, stream))) => {
                tracing::debug!(%error, "a worker's connection was refused");
                if let Some(stream) = stream {
                    let_read(stream, &self.host).await;
                }
            }
            Err(_) => tracing::debug!("a peer took too long to prove itself"),
        }
    }

    /// Meets the others of an attempt, unless nobody waits for that any more.
    pub(super) fn meet(self: &Rc<Self>, meet: Meet, mut met: oneshot::Sender<Result<Met, Broken>>) {
        let hub = Rc::clone(self);
        let mut meetings = self.meetings.borrow_mut();
        meetings.forget_ended();
        meetings.spawn(async move {
            let meeting = hub.gather(&meet);
            let result = match select(pin!(meeting), pin!(met.closed())).await {
                Either::Left((result, _)) => result,
                Either::Right(_) => return,
            };
            // If nobody waits any more, the links are dropped as well.
            let _ = met.send(result);
        });
    }

    async fn gather(self: &Rc<Self>, meet: &Meet) -> Result<Met, Broken> {
        let met = RefCell::new(Met(vec![None; meet.addresses.len()]));
        let each = (0..).zip(&meet.addresses).filter(|(other, _)| *other != meet.here).map(|(other, address)| {
            let key = key_of(meet, meet.here.min(other), meet.here.max(other));
            let met = &met;
            async move {
                let proven = self.reach(meet.here < other, &key, address).await;
                let Proven { stream, integrity, .. } = proven.map_err(|message| Broken { peer: other, message })?;
                // It is kept up from here on, since the other end may have met all of its others.
                let link = Link::new(other, integrity == Integrity::Sums);
                met.borrow_mut().0[other as usize] = Some(Arc::clone(&link));
                self.keep(&link, stream);
                Ok(())
            }
        });
        try_join_all(each).await?;
        let met = met.into_inner();
        match met.0.iter().flatten().find_map(|link| link.broken()) {
            Some(broken) => Err(broken),
            None => Ok(met),
        }
    }

    /// The one connection with another worker, whichever of the two has dialled.
    ///
    /// # Errors
    ///
    /// Neither has reached the other; in words.
    async fn reach(&self, is_lower: bool, key: &Key, address: &str) -> Result<Proven, String> {
        let limit = self.limits.meeting;
        let (arrived, arrivals) = mpsc::unbounded_channel();
        let id = key.id();
        self.expected.by_key.borrow_mut().insert(id, (key.clone(), arrived));
        let _expecting = Expecting { expected: &self.expected, id };
        let failure = RefCell::new(None);
        let reaching = async {
            if is_lower {
                self.choose(key, address, arrivals, &failure).await
            } else {
                self.be_chosen(key, address, arrivals, &failure).await
            }
        };
        self.host.timeout(limit, reaching).await.map_err(|_| {
            let why = failure.take().unwrap_or_else(|| "there was no answer".to_owned());
            format!("it was not reached at {address} within {} s: {why}, and it did not come", limit.as_secs_f64())
        })
    }

    /// Takes the first connection that there is, and tells the other end.
    async fn choose(&self, key: &Key, address: &str, mut arrivals: Arrivals, failure: &Failure) -> Proven {
        loop {
            let dialled = pin!(self.dial(key, address, failure));
            let mut proven = match select(dialled, pin!(arrivals.recv())).await {
                Either::Left((proven, _)) | Either::Right((Some(proven), _)) => proven,
                Either::Right((None, dialled)) => dialled.await,
            };
            let told = async {
                proven.stream.write_all(&[CHOSEN]).await?;
                proven.stream.flush().await
            };
            match told.await {
                Ok(()) => return proven,
                Err(error) => failure.replace(Some(error.to_string())),
            };
        }
    }

    /// Waits for the connection that the other end chooses of all that there are, and dials too if none comes for a while.
    async fn be_chosen(&self, key: &Key, address: &str, mut arrivals: Arrivals, failure: &Failure) -> Proven {
        let coming = async {
            let mut candidates = FuturesUnordered::new();
            loop {
                let chosen = async {
                    match candidates.next().await {
                        Some(chosen) => chosen,
                        None => pending().await,
                    }
                };
                let arrival = async {
                    match arrivals.recv().await {
                        Some(arrival) => arrival,
                        None => pending().await,
                    }
                };
                let (chosen, arrival) = match select(pin!(chosen), pin!(arrival)).await {
                    Either::Left((chosen, _)) => (chosen, None),
                    Either::Right((arrival, _)) => (None, Some(arrival)),
                };
                if let Some(proven) = chosen {
                    return proven;
                }
                candidates.extend(arrival.map(chosen_one));
            }
        };
        let going = async {
            self.host.sleep(self.limits.patience).await;
            loop {
                if let Some(proven) = chosen_one(self.dial(key, address, failure).await).await {
                    return proven;
                }
            }
        };
        match select(pin!(coming), pin!(going)).await {
            Either::Left((proven, _)) | Either::Right((proven, _)) => proven,
        }
    }

    /// Tries until there is a connection.
    async fn dial(&self, key: &Key, address: &str, failure: &Failure) -> Proven {
        let dial = TcpDial { address: address.to_owned() };
        let side = ClientSide { key, client: 0, encryption: &self.client, host: &self.host };
        let mut backoff = Backoff::up_to(DIAL_RETRY_MAX);
        loop {
            let once =
                async { side.connect(dial.dial().await.map_err(|error| error.message)?).await.map_err(in_words) };
            match self.host.timeout(self.limits.hello, once).await {
                Ok(Ok(Established { stream, integrity, .. })) => return Proven { peer: (), stream, integrity },
                Ok(Err(error)) => failure.replace(Some(error)),
                Err(_) => failure.replace(None),
            };
            self.host.sleep(backoff.next(&self.host)).await;
        }
    }

    /// Keeps a link up to its end.
    fn keep(&self, link: &Arc<Link>, stream: Box<dyn Stream>) {
        let drive = Drive::new(link, stream, &self.host, self.limits.heartbeat);
        let mut drives = self.drives.borrow_mut();
        drives.forget_ended();
        drives.spawn(drive);
        let mut links = self.links.borrow_mut();
        links.retain(|link| link.strong_count() > 0);
        links.push(Arc::downgrade(link));
    }

    /// Breaks off every link that is not being left, and waits for the others, but not for long.
    pub(super) async fn close(&self) {
        let mut meetings = self.meetings.take();
        meetings.shutdown().await;
        let links = self.links.take();
        for link in links.iter().filter_map(Weak::upgrade).filter(|link| !link.is_leaving()) {
            link.break_off("this worker has closed");
        }
        let mut drives = self.drives.take();
        let _ = self.host.timeout(FAREWELL_LIMIT, drives.ended()).await;
    }
}

/// The connection, once the other end has chosen it; none if it is lost before.
async fn chosen_one(mut proven: Proven) -> Option<Proven> {
    let mut byte = [0];
    proven.stream.read_exact(&mut byte).await.is_ok_and(|_| byte == [CHOSEN]).then_some(proven)
}

/// What went wrong in a hello, as another worker sees it.
fn in_words(error: HelloError) -> String {
    if error.says_key_unknown() { "it does not expect this attempt".to_owned() } else { error.to_string() }
}

/// A connection is waited for, until this is dropped.
struct Expecting<'a> {
    expected: &'a Expected,
    id: KeyId,
}

impl Drop for Expecting<'_> {
    fn drop(&mut self) {
        self.expected.by_key.borrow_mut().remove(&self.id);
    }
}

/// The links to those that were met, by the number of the other worker. Unless they are taken they are broken off.
pub(super) struct Met(Vec<Option<Arc<Link>>>);

impl Met {
    pub(super) fn take(mut self) -> Arc<Peers> {
        Peers::new(take(&mut self.0))
    }
}

impl Drop for Met {
    fn drop(&mut self) {
        self.0.iter().flatten().for_each(|link| link.break_off("not all workers of the attempt have met"));
    }
}
