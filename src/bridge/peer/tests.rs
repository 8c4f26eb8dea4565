use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use futures::future::{join, join_all};

use super::*;
use crate::{
    blocking::block_on,
    job::{Attempt, Generation, JobId, Term},
    peer::{Link, Offered, Sink, StreamId, StreamMark},
};

const LIMIT: Duration = Duration::from_secs(30);
const CHANNEL: StreamId = StreamId::Channel(3);
const CREDIT: u64 = 64 << 20;

fn host() -> &'static Host {
    Host::shared_by_tests()
}

fn run<T>(future: impl Future<Output = T>) -> T {
    block_on(host().timeout(LIMIT, future)).expect("it ends")
}

/// So that what is not met is given up soon.
fn hasty() -> PeerLimits {
    PeerLimits { meeting: Duration::from_millis(600), patience: Duration::from_millis(50), ..PeerLimits::default() }
}

fn config(limits: PeerLimits) -> PeerHubConfig {
    let (address, thread_name) = ("127.0.0.1:0".to_owned(), "peers".to_owned());
    PeerHubConfig { address, ports: None, advertised: None, always_encrypted: false, thread_name, limits }
}

fn hubs<const N: usize>(limits: PeerLimits) -> [PeerHub; N] {
    std::array::from_fn(|_| PeerHub::open(config(limits), host()).expect("a hub"))
}

/// What each of them is told of an attempt.
fn meets(hubs: &[PeerHub]) -> Vec<Meet> {
    let addresses: Vec<String> = hubs.iter().map(Meeting::address).collect();
    let (job, term) = (JobId::random(), Term { generation: Generation(1), attempt: Attempt(1) });
    let here = 0..u32::try_from(hubs.len()).expect("they are few");
    here.map(|here| Meet { job, term, here, addresses: addresses.clone(), key: [7; 32] }).collect()
}

type Results = Vec<Result<Arc<Peers>, Broken>>;

fn meet(hubs: &[PeerHub], meets: &[Meet]) -> Results {
    run(join_all(hubs.iter().zip(meets).map(|(hub, meet)| hub.meet(meet.clone()))))
}

fn met(hubs: &[PeerHub]) -> Vec<Arc<Peers>> {
    meet(hubs, &meets(hubs)).into_iter().map(|met| met.expect("they meet")).collect()
}

/// Counts what comes.
#[derive(Default)]
struct Count {
    bytes: AtomicU64,
    is_broken: AtomicBool,
}

impl Sink for Count {
    fn batch(&self, _: u64, bytes: Vec<u8>) {
        self.bytes.fetch_add(bytes.len() as u64, Ordering::SeqCst);
    }

    fn mark(&self, _: StreamMark) {}

    fn broken(&self, _: &Broken) {
        self.is_broken.store(true, Ordering::SeqCst);
    }
}

/// Both ends of one link with a stream over it.
fn stream(from: &Arc<Link>, to: &Arc<Link>) -> (crate::peer::Sender, crate::peer::Receiver, Arc<Count>) {
    let count = Arc::new(Count::default());
    (from.sender(CHANNEL, CREDIT), to.receiver(CHANNEL, CREDIT, count.clone()), count)
}

async fn until(mut is_so: impl FnMut() -> bool) {
    while !is_so() {
        host().sleep(Duration::from_millis(1)).await;
    }
}

/// Waits for the end of a connection that another end closes or resets.
fn is_closed(mut stream: &TcpStream) -> bool {
    stream.set_read_timeout(Some(LIMIT)).expect("it can be set");
    let mut bytes = [0; 1024];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() == io::ErrorKind::ConnectionReset,
        }
    }
}

#[test]
fn three_workers_meet_pairwise_and_each_hears_the_others() {
    let hubs: [_; 3] = hubs(PeerLimits::default());
    let peers = met(&hubs);
    let mut streams = Vec::new();
    for (here, those) in (0..).zip(&peers) {
        assert_eq!(those.iter().map(|(other, _)| other).collect::<Vec<_>>(), [[1, 2], [0, 2], [0, 1]][here as usize]);
        for (other, link) in those.iter() {
            let (sender, receiver, count) = stream(link, peers[other as usize].link(here));
            assert_eq!(sender.offer(1, &vec![0; 1000 + here as usize]), Offered::Taken);
            streams.push((run(link.settle(&[])), count.bytes.load(Ordering::SeqCst), 1000 + u64::from(here), receiver));
        }
    }
    assert_eq!(streams.len(), 6);
    assert!(streams.iter().all(|(settled, arrived, sent, _)| settled.is_ok() && arrived == sent));
    // Another attempt beside it has connections of its own.
    let again = met(&hubs);
    peers.iter().flat_map(|peers| peers.iter()).for_each(|(_, link)| link.leave());
    run(until(|| peers.iter().all(|peers| peers.iter().all(|(_, link)| link.broken().is_some()))));
    assert!(run(again[0].link(2).settle(&[])).is_ok());
}

/// One of them is behind a firewall, or address translation.
#[test]
fn two_of_which_only_one_reaches_the_other_meet_whichever_it_is() {
    for unreachable in [0, 1] {
        let hubs: [_; 2] = hubs(PeerLimits { patience: Duration::from_millis(20), ..PeerLimits::default() });
        let mut meets = meets(&hubs);
        let nobody = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("it listens").to_string();
        meets.iter_mut().for_each(|meet| meet.addresses[unreachable].clone_from(&nobody));
        let met: Vec<_> = meet(&hubs, &meets).into_iter().map(|met| met.expect("they meet")).collect();
        let (sender, _receiver, count) = stream(met[0].link(1), met[1].link(0));
        assert_eq!(sender.offer(1, &[0; 100]), Offered::Taken);
        run(met[0].link(1).settle(&[])).expect("it is whole");
        assert_eq!(count.bytes.load(Ordering::SeqCst), 100, "{unreachable}");
    }
}

/// Both dial at once, again and again, and end with the two ends of one connection.
#[test]
fn two_that_reach_each_other_at_once_agree_on_one_connection() {
    let hubs: [_; 2] = hubs(PeerLimits { patience: Duration::ZERO, ..PeerLimits::default() });
    for round in 0..50 {
        let met = met(&hubs);
        for (from, to) in [(0, 1), (1, 0)] {
            let (here, there) = (met[from].link(to as u32), met[to].link(from as u32));
            let (sender, _receiver, count) = stream(here, there);
            assert_eq!(sender.offer(1, &[0; 100]), Offered::Taken);
            run(here.settle(&[])).expect("it is whole");
            assert_eq!(count.bytes.load(Ordering::SeqCst), 100, "{round}");
        }
    }
}

#[test]
fn of_a_range_of_ports_the_first_free_one_is_taken_and_with_none_there_is_no_hub() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let first = taken.local_addr().expect("it listens").port();
    let open = |ports| PeerHub::open(PeerHubConfig { ports: Some(ports), ..config(hasty()) }, host());
    let last = first.saturating_add(50);
    let hub = open(first..=last).expect("one of them is free");
    let port: u16 = hub.address().rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("a port");
    assert!(port > first && port <= last, "{port} is not beside {first}");
    let refused = open(first..=first).expect_err("it is taken");
    assert!(matches!(refused, PeerHubError::Address { .. }), "{refused:?}");
    #[expect(clippy::reversed_empty_ranges, reason = "a user may say so")]
    let refused = open(9..=8).expect_err("there is none");
    assert!(matches!(refused, PeerHubError::Address { .. }), "{refused:?}");
}

#[test]
fn a_worker_alone_meets_nobody() {
    let hubs: [_; 1] = hubs(PeerLimits::default());
    assert_eq!(met(&hubs)[0].iter().count(), 0);
}

#[test]
fn what_is_queued_when_a_worker_leaves_arrives() {
    let hubs: [_; 2] = hubs(PeerLimits::default());
    let peers = met(&hubs);
    let (sender, _receiver, count) = stream(peers[0].link(1), peers[1].link(0));
    for _ in 0..5 {
        assert_eq!(sender.offer(1, &vec![0; 1 << 20]), Offered::Taken);
    }
    peers[0].link(1).leave();
    run(until(|| count.bytes.load(Ordering::SeqCst) == 5 << 20));
    run(until(|| peers.iter().all(|peers| peers.iter().all(|(_, link)| link.broken().is_some()))));
    assert!(!count.is_broken.load(Ordering::SeqCst));
}

#[test]
fn another_key_attempt_or_job_is_not_met_and_disturbs_nobody() {
    let hubs: [_; 2] = hubs(hasty());
    let right = meets(&hubs);
    let mut wrong = [right[1].clone(), right[1].clone(), right[1].clone()];
    wrong[0].key[31] ^= 1;
    wrong[1].term.attempt = Attempt(2);
    wrong[2].job = JobId::random();
    for wrong in wrong {
        let results = meet(&hubs, &[right[0].clone(), wrong]);
        let Err(dialled) = &results[0] else { panic!("it met one that it should not") };
        assert!(dialled.peer == 1 && dialled.message.contains("does not expect this attempt"), "{dialled}");
        let Err(waited) = &results[1] else { panic!("it met one that it should not") };
        assert!(
            waited.peer == 0 && waited.message.contains("it does not expect this attempt, and it did not come"),
            "{waited}"
        );
    }
    assert!(meet(&hubs, &right).iter().all(Result::is_ok));
}

#[test]
fn who_is_dialled_before_it_knows_of_the_attempt_is_dialled_again() {
    let hubs: [_; 2] = hubs(PeerLimits::default());
    let meets = meets(&hubs);
    let late = async {
        host().sleep(Duration::from_millis(100)).await;
        hubs[1].meet(meets[1].clone()).await
    };
    let (early, late) = run(join(hubs[0].meet(meets[0].clone()), late));
    assert!(early.is_ok() && late.is_ok());
}

#[test]
fn strangers_are_turned_away_and_keep_nobody_from_meeting() {
    let hubs: [_; 2] = hubs(PeerLimits { hello: Duration::from_secs(1), ..PeerLimits::default() });
    let address = hubs[1].address();
    // More than there is room for.
    let silent: Vec<TcpStream> = (0..300).map(|_| TcpStream::connect(&address).expect("it listens")).collect();
    let said: Vec<TcpStream> = [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 4096], &[0x16, 3, 1, 2, 0], b"PROSCNM\n", b""]
        .into_iter()
        .map(|bytes| {
            let mut stream = TcpStream::connect(&address).expect("it listens");
            stream.write_all(bytes).expect("it is taken");
            stream
        })
        .collect();
    let peers = met(&hubs);
    assert!(run(peers[0].link(1).settle(&[])).is_ok());
    assert!(silent.iter().chain(&said).all(is_closed));
    assert!(run(peers[1].link(0).settle(&[])).is_ok(), "those that were met stay");
}

#[test]
fn who_is_not_there_is_named_and_the_links_to_others_are_gone() {
    let hubs: [_; 2] = hubs(hasty());
    let mut meets = meets(&hubs);
    let nobody = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    meets.iter_mut().for_each(|meet| meet.addresses.push(nobody.to_string()));
    let results = meet(&hubs, &meets);
    for result in &results {
        let Err(broken) = result else { panic!("it met one that is not there") };
        assert!(broken.peer == 2 && broken.message.contains("refused"), "{broken}");
    }
    // The other end is told of it as well, if it waits for more.
    meets[1].addresses.truncate(2);
    let results = meet(&hubs, &meets);
    assert!(results[0].is_err());
    let link = results[1].as_ref().expect("they met").link(0);
    run(until(|| link.broken().is_some()));
    assert!(!link.is_leaving());
}

#[test]
fn a_meeting_that_nobody_waits_for_any_more_leaves_nothing() {
    let hubs: [_; 3] = hubs(PeerLimits::default());
    let meets = meets(&hubs);
    let pair = join(hubs[0].meet(meets[0].clone()), hubs[1].meet(meets[1].clone()));
    // The third does not come.
    assert!(block_on(host().timeout(Duration::from_millis(100), pair)).is_err());
    let third = hubs[2].meet(Meet { addresses: meets[2].addresses[1..].to_vec(), here: 1, ..meets[2].clone() });
    drop(third);
    // The same attempt can be met, as nobody is expected any more.
    assert!(meet(&hubs, &meets).iter().all(Result::is_ok));
}

#[test]
fn a_hub_that_closes_breaks_its_links_off_and_answers_those_who_wait() {
    let mut hubs: Vec<PeerHub> = hubs::<3>(PeerLimits::default()).into();
    let peers = met(&hubs);
    let waiting = hubs[0].meet(meets(&hubs)[0].clone());
    let (_sender, _receiver, count) = stream(peers[2].link(0), peers[0].link(2));
    let (result, ()) = run(join(waiting, async { hubs[0].close() }));
    assert!(result.is_err_and(|broken| broken.message.contains("closed")));
    assert!(count.is_broken.load(Ordering::SeqCst));
    run(until(|| [1, 2].iter().all(|other| peers[*other].link(0).broken().is_some())));
    assert!(run(peers[1].link(2).settle(&[])).is_ok());
    let closed = hubs.remove(0);
    assert!(run(closed.meet(meets(&hubs)[0].clone())).is_err(), "one that has closed meets nobody");
    drop(hubs);
    run(until(|| peers.iter().all(|peers| peers.iter().all(|(_, link)| link.broken().is_some()))));
}

#[test]
fn a_link_that_is_full_holds_up_no_other() {
    let hubs: [_; 3] = hubs(PeerLimits::default());
    let peers = met(&hubs);
    let (busy, receiver, count) = stream(peers[0].link(1), peers[1].link(0));
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let batch = vec![0; 256 << 10];
            while !is_over.load(Ordering::SeqCst) {
                if busy.offer(1, &batch) != Offered::Taken {
                    std::thread::yield_now();
                }
                // The receiver takes its time, and the other links do not wait for it.
                receiver.grant(count.bytes.swap(0, Ordering::SeqCst));
            }
        });
        for _ in 0..50 {
            assert!(run(peers[2].link(0).settle(&[])).is_ok());
            assert!(run(peers[0].link(2).settle(&[])).is_ok());
        }
        assert!(peers[0].link(1).broken().is_none());
        is_over.store(true, Ordering::SeqCst);
    });
}

#[cfg(feature = "tls")]
#[test]
fn what_is_encrypted_meets_and_arrives() {
    let open = || PeerHub::open(PeerHubConfig { always_encrypted: true, ..config(PeerLimits::default()) }, host());
    let hubs = [open().expect("a hub"), open().expect("a hub")];
    let peers = met(&hubs);
    let (sender, _receiver, count) = stream(peers[1].link(0), peers[0].link(1));
    for _ in 0..3 {
        assert_eq!(sender.offer(1, &vec![0; 3 << 20]), Offered::Taken);
    }
    assert!(run(peers[1].link(0).settle(&[])).is_ok());
    assert_eq!(count.bytes.load(Ordering::SeqCst), 9 << 20);
    peers[1].link(0).leave();
    run(until(|| peers.iter().all(|peers| peers.iter().all(|(_, link)| link.broken().is_some()))));
    assert!(!count.is_broken.load(Ordering::SeqCst), "a goodbye is no failure");
}

#[cfg(not(feature = "tls"))]
#[test]
fn beyond_this_machine_nobody_is_met_without_encryption() {
    let opened = PeerHub::open(PeerHubConfig { address: "0.0.0.0:0".to_owned(), ..config(hasty()) }, host());
    assert!(matches!(opened, Err(PeerHubError::Exposed { .. })));
    let hubs: [_; 2] = hubs(hasty());
    let mut meets = meets(&hubs);
    meets[0].addresses[1] = "192.0.2.1:1".to_owned();
    let Err(broken) = run(hubs[0].meet(meets[0].clone())) else { panic!("it met one beyond this machine") };
    assert!(broken.message.contains("without encryption"), "{broken}");
}

#[test]
fn others_are_told_an_address_at_which_they_can_reach_it() {
    let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
    for (said, listening, told) in [
        (None, "127.0.0.1:7", "127.0.0.1:7"),
        (None, "[::1]:7", "[::1]:7"),
        (Some("worker-1"), "0.0.0.0:7", "worker-1:7"),
        (Some("192.0.2.1:8"), "0.0.0.0:7", "192.0.2.1:8"),
        (Some("2001:db8::1"), "[::]:7", "[2001:db8::1]:7"),
        (Some("[2001:db8::1]"), "[::]:7", "[2001:db8::1]:7"),
        (Some("[2001:db8::1]:8"), "[::]:7", "[2001:db8::1]:8"),
    ] {
        assert_eq!(advertised(said, address(listening)).expect("it can be told"), told);
    }
    assert!(matches!(advertised(None, address("0.0.0.0:7")), Err(PeerHubError::Unspecified { .. })));
    let taken = TcpListener::bind("127.0.0.1:0").and_then(|listener| Ok((listener.local_addr()?, listener)));
    let (at, _listener) = taken.expect("a port");
    let opened = PeerHub::open(PeerHubConfig { address: at.to_string(), ..config(hasty()) }, host());
    assert!(matches!(opened, Err(PeerHubError::Address { .. })));
}

/// In a process of its own, as other tests have threads and descriptors.
#[cfg(target_os = "linux")]
#[test]
fn hubs_leave_no_thread_and_no_descriptor() {
    const CHILD: &str = "PROSCENIUM_TEST_PEERS";
    const NAME: &str = "bridge::peer::tests::hubs_leave_no_thread_and_no_descriptor";
    if std::env::var_os(CHILD).is_none() {
        let program = std::env::current_exe().expect("this program has a path");
        let child = std::process::Command::new(program).args([NAME, "--exact", "--nocapture"]).env(CHILD, "1").output();
        let output = child.expect("a child can be started");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("it left nothing"), "{said}\n{output:?}");
        return;
    }
    let count = |what: &str| std::fs::read_dir(format!("/proc/self/{what}")).expect("/proc is there").count();
    let open_and_close = |number: u32| {
        let hubs: [_; 3] = hubs(hasty());
        let _stranger = TcpStream::connect(hubs[0].address()).expect("it listens");
        match number % 4 {
            0 => drop(met(&hubs)),
            1 => met(&hubs).iter().flat_map(|peers| peers.iter()).for_each(|(_, link)| link.leave()),
            2 => assert!(meet(&hubs, &meets(&hubs)[..2]).iter().all(Result::is_err)),
            _ => drop(hubs[0].meet(meets(&hubs)[0].clone())),
        }
    };
    (0..4).for_each(open_and_close);
    let before = [count("task"), count("fd")];
    (0..16).for_each(open_and_close);
    // A thread that was joined stays in the list for a moment, and may have been in it before.
    run(until(|| [count("task"), count("fd")].iter().zip(&before).all(|(now, before)| now <= before)));
    std::io::Write::write_all(&mut std::io::stdout(), b"it left nothing\n").expect("the parent listens");
}
