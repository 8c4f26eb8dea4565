//! A stretch of wire between a client and a node, which can be cut, and can swallow what is sent over it.

use std::{
    collections::VecDeque,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use parking_lot::{Condvar, Mutex};

/// Forwards connections to a node.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    target: Mutex<SocketAddr>,
    /// What becomes of the next connections, in order; later ones are not cut.
    cuts: Mutex<VecDeque<Cut>>,
    /// What the next connections are told, in order, instead of being led anywhere.
    answers: Mutex<VecDeque<Vec<u8>>>,
    alive: Mutex<Vec<TcpStream>>,
    connections: AtomicU64,
    /// To the node, and to the client.
    forwarded: [AtomicU64; 2],
    /// The beginning of that.
    heard: [Mutex<Vec<u8>>; 2],
    /// What becomes of later connections.
    mouth: Mutex<Swallow>,
    swallows: Mutex<Vec<Arc<[AtomicBool; 2]>>>,
    /// Nothing is taken from the node.
    stalled: Mutex<bool>,
    goes_on: Condvar,
    /// How long bytes are on the way, each way.
    delay: Mutex<Duration>,
    /// Ways that lead nowhere any more.
    ended: AtomicU64,
    over: AtomicBool,
}

/// Which ways bytes vanish, without either side being told: as if a cable were cut.
#[derive(Debug, Clone, Copy, Default)]
pub struct Swallow {
    pub to_node: bool,
    pub to_client: bool,
}

impl Swallow {
    pub const NOTHING: Self = Self { to_node: false, to_client: false };
    pub const ALL: Self = Self { to_node: true, to_client: true };
    pub const ANSWERS: Self = Self { to_node: false, to_client: true };
}

/// After how many bytes a connection is cut.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cut {
    pub to_node: Option<u64>,
    pub to_client: Option<u64>,
    /// Nothing is cut, but this is changed.
    pub flip: Option<Flip>,
}

/// A bit that does not arrive as it was sent.
#[derive(Debug, Clone, Copy)]
pub struct Flip {
    /// 0 to the node, 1 to the client.
    pub way: usize,
    /// Behind so many bytes.
    pub at: u64,
    pub bit: u8,
}

impl Flip {
    /// Changes it, if it is among these bytes, of which `before` came earlier.
    fn apply(self, before: u64, bytes: &mut [u8]) {
        if let Some(at) = self.at.checked_sub(before).and_then(|at| usize::try_from(at).ok())
            && let Some(byte) = bytes.get_mut(at)
        {
            *byte ^= 1 << self.bit;
        }
    }
}

impl Proxy {
    pub fn to(target: SocketAddr) -> Self {
        Self::between("127.0.0.1:0", target)
    }

    /// One that listens at `address`.
    pub fn between(address: &str, target: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).expect("the address is free");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            target: Mutex::new(target),
            cuts: Mutex::default(),
            answers: Mutex::default(),
            alive: Mutex::default(),
            connections: AtomicU64::new(0),
            forwarded: Default::default(),
            heard: Default::default(),
            mouth: Mutex::default(),
            swallows: Mutex::default(),
            stalled: Mutex::default(),
            goes_on: Condvar::new(),
            delay: Mutex::default(),
            ended: AtomicU64::new(0),
            over: AtomicBool::new(false),
        });
        let forwarding = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming() {
                if forwarding.over.load(Ordering::SeqCst) {
                    return;
                }
                if let Ok(client) = client {
                    forwarding.forward(client);
                }
            }
        });
        Self { address, shared }
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// From now on connections lead there.
    pub fn lead_to(&self, target: SocketAddr) {
        *self.shared.target.lock() = target;
    }

    /// The next connections are cut so.
    pub fn cut_next(&self, cuts: impl IntoIterator<Item = Cut>) {
        self.shared.cuts.lock().extend(cuts);
    }

    /// The next connections are not cut, whatever was said before.
    pub fn spare_next(&self) {
        self.shared.cuts.lock().clear();
    }

    /// The next connections are told this, and led nowhere.
    pub fn answer_next(&self, answers: impl IntoIterator<Item = Vec<u8>>) {
        self.shared.answers.lock().extend(answers);
    }

    /// So many answers are still to be given.
    pub fn answers_left(&self) -> usize {
        self.shared.answers.lock().len()
    }

    /// Cuts all connections there are.
    pub fn cut(&self) {
        for stream in self.shared.alive.lock().drain(..) {
            // It may be cut already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// From now on the connections there are swallow what is sent these ways, for good.
    pub fn swallow(&self, ways: Swallow) {
        for swallows in self.shared.swallows.lock().iter() {
            swallows[0].fetch_or(ways.to_node, Ordering::SeqCst);
            swallows[1].fetch_or(ways.to_client, Ordering::SeqCst);
        }
    }

    /// From now on nothing is taken from the node, or is again.
    pub fn stall(&self, stalled: bool) {
        *self.shared.stalled.lock() = stalled;
        self.shared.goes_on.notify_all();
    }

    /// Bytes take so long, each way.
    pub fn delay(&self, delay: Duration) {
        *self.shared.delay.lock() = delay;
    }

    /// Later connections swallow what is sent these ways.
    pub fn swallow_new(&self, ways: Swallow) {
        *self.shared.mouth.lock() = ways;
    }

    /// Bytes so far to the node, and to the client.
    pub fn forwarded(&self) -> [u64; 2] {
        self.shared.forwarded.each_ref().map(|bytes| bytes.load(Ordering::SeqCst))
    }

    /// What went over it to the node and to the client, of each the first 64 KiB.
    pub fn heard(&self) -> [Vec<u8>; 2] {
        self.shared.heard.each_ref().map(|heard| heard.lock().clone())
    }

    /// How many ways have ended so far, of two for each connection.
    pub fn ended(&self) -> u64 {
        self.shared.ended.load(Ordering::SeqCst)
    }

    /// Connections so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        self.stall(false);
        self.cut();
        // Wakes the thread that waits for a connection.
        drop(TcpStream::connect(self.address));
    }
}

impl Shared {
    fn forward(self: &Arc<Self>, mut client: TcpStream) {
        let answer = self.answers.lock().pop_front();
        if let Some(answer) = answer {
            // The client may not read it all. What it has said is read first, or the answer would be lost.
            let _ = client.read(&mut [0; 64]);
            let _ = client.write_all(&answer);
            return;
        }
        let Ok(node) = TcpStream::connect(*self.target.lock()) else { return };
        self.connections.fetch_add(1, Ordering::SeqCst);
        let cut = self.cuts.lock().pop_front().unwrap_or_default();
        let mouth = *self.mouth.lock();
        let swallows = Arc::new([mouth.to_node, mouth.to_client].map(AtomicBool::new));
        self.swallows.lock().push(Arc::clone(&swallows));
        let both = |stream: &TcpStream| stream.try_clone().expect("a descriptor is free");
        self.alive.lock().extend([both(&client), both(&node)]);
        let ways = [(both(&client), both(&node), cut.to_node), (node, client, cut.to_client)];
        for (way, (from, to, limit)) in ways.into_iter().enumerate() {
            let (shared, swallows) = (Arc::clone(self), Arc::clone(&swallows));
            let flip = cut.flip.filter(|flip| flip.way == way);
            thread::spawn(move || {
                pump(
                    from,
                    to,
                    limit.unwrap_or(u64::MAX),
                    flip,
                    (&shared.forwarded[way], &shared.heard[way]),
                    &swallows[way],
                    (&shared, way),
                );
                shared.ended.fetch_add(1, Ordering::SeqCst);
            });
        }
    }
}

impl Shared {
    /// What was read goes on once it may.
    fn hold_up(&self, way: usize) {
        let mut stalled = self.stalled.lock();
        while way == 1 && *stalled {
            self.goes_on.wait(&mut stalled);
        }
        let delay = *self.delay.lock();
        if !delay.is_zero() {
            self.goes_on.wait_for(&mut stalled, delay);
        }
    }
}

fn pump(
    mut from: TcpStream,
    mut to: TcpStream,
    mut left: u64,
    flip: Option<Flip>,
    (forwarded, heard): (&AtomicU64, &Mutex<Vec<u8>>),
    swallow: &AtomicBool,
    (shared, way): (&Shared, usize),
) {
    let (mut bytes, mut before) = (vec![0; 64 << 10], 0);
    let _ = to.set_nodelay(true);
    while let Ok(count) = from.read(&mut bytes) {
        shared.hold_up(way);
        if swallow.load(Ordering::SeqCst) {
            if count == 0 {
                // Not even the end is passed on.
                return;
            }
            continue;
        }
        if let Some(flip) = flip {
            flip.apply(before, &mut bytes[..count]);
        }
        before += count as u64;
        let now = usize::try_from(left).unwrap_or(usize::MAX).min(count);
        left -= now as u64;
        forwarded.fetch_add(now as u64, Ordering::SeqCst);
        let mut heard = heard.lock();
        let room = (64 << 10) - heard.len();
        heard.extend_from_slice(&bytes[..now.min(room)]);
        drop(heard);
        if to.write_all(&bytes[..now]).is_err() || now == 0 || left == 0 {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
