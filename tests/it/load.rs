//! Many clients, many jobs, many strangers: all are served, and the node is as it was when they have gone. Small numbers in
//! the gate, large ones in the long campaign.

use std::{
    collections::VecDeque,
    env,
    io::{Read, Write},
    net::TcpStream,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use proscenium::{Environment, Limits, Outcome, RemoteEnvironment};
use tokio::{net::TcpSocket, sync::Barrier};

use crate::{
    leaks::child::{Holdings, holdings_of, in_child, is_long, many_descriptors, mebibytes, resident_of},
    support::{NodeProcess, NodeSetup, Proxy, job, registered},
};

const LIMIT: Duration = Duration::from_secs(540);

registered![Doubles];

job!(Doubles {}, |this, flow| {
    flow.from_batch(0..10u64).rebalance(2).map(|item| item * 2).collect("out");
});

/// What a node holds while one client is connected, which has had a job run.
struct Weight {
    /// Its process.
    node: String,
    client: RemoteEnvironment,
    idle: Holdings,
    /// After it has had work once.
    resident: u64,
}

impl Weight {
    fn of(node: &NodeProcess) -> Self {
        let client = node.connect().blocking().expect("the node is there");
        runtime().block_on(run_a_job(&client));
        let node = node.id().to_string();
        Self { idle: holdings_of(&node), resident: resident_of(&node), client, node }
    }

    /// The node has had work, of a kind that will be measured.
    fn warmed_up(self) -> Self {
        self.came_to_rest();
        Self { resident: resident_of(&self.node), ..self }
    }

    /// Checks that the node holds what it held, but for these bytes.
    fn assert_same(&self, what: &str, bytes: u64) {
        let after = self.came_to_rest();
        let resident = resident_of(&self.node);
        let grown = resident.saturating_sub(self.resident);
        println!(
            "{what}: {:?} -> {after:?}, resident memory {:.1} MiB, grew by {:.2} MiB",
            self.idle,
            mebibytes(resident),
            mebibytes(grown)
        );
        assert!(grown <= bytes, "{grown} bytes");
    }

    /// All other connections are closed, and in the long campaign the threads that build flows are gone too: they stay for 10 s
    /// without work.
    fn came_to_rest(&self) -> Holdings {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let now = holdings_of(&self.node);
            let threads = now.threads <= self.idle.threads + if is_long() { 0 } else { 64 };
            if now.descriptors == self.idle.descriptors && threads {
                return now;
            }
            assert!(Instant::now() < deadline, "{:?} -> {now:?}", self.idle);
            thread::yield_now();
        }
    }
}

async fn run_a_job(env: &RemoteEnvironment) {
    let job = env.submit(Doubles {}).autostop(true).await.expect("submitted");
    assert_eq!(job.wait().await, Ok(Outcome::Completed));
    let mut out = job.output::<u64>("out").await.expect("it is whole");
    out.sort_unstable();
    assert_eq!(out, (0..10).map(|n| n * 2).collect::<Vec<_>>());
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

#[test]
fn many_clients_at_once_are_all_served_and_leave_nothing() {
    in_child("load::many_clients_at_once_are_all_served_and_leave_nothing", LIMIT, || {
        let clients = if is_long() { 1_000 } else { 60 };
        many_descriptors();
        let node = NodeProcess::start(&Limits::default());
        let idle = Weight::of(&node);
        let serve = |clients: usize| {
            // All are connected before the first of them does anything.
            let connected = Barrier::new(clients);
            runtime().block_on(stream::iter(0..clients).for_each_concurrent(clients, async |_| {
                let env = node.connect().connect_limit(LIMIT).await.expect("the node is there");
                connected.wait().await;
                run_a_job(&env).await;
                env.close().await;
            }));
        };
        serve(clients);
        serve(clients);
        let before = idle.warmed_up();
        let begun = Instant::now();
        serve(clients);
        println!("{clients} clients at once: connected, one job each, done after {:.2?}", begun.elapsed());
        before.assert_same(&format!("{clients} clients at once"), 8 << 20);
        node.end();
    });
}

#[test]
fn many_jobs_in_a_row_leave_nothing_beyond_the_history() {
    in_child("load::many_jobs_in_a_row_leave_nothing_beyond_the_history", LIMIT, || {
        let jobs = if is_long() { 10_000 } else { 500 };
        let node = NodeProcess::start(&Limits { ended_jobs_max: 200, ..Limits::default() });
        let idle = Weight::of(&node);
        let run = |jobs: usize| {
            let env = node.connect().blocking().expect("the node is there");
            runtime().block_on(async {
                for _ in 0..jobs {
                    run_a_job(&env).await;
                }
                let health = env.health().await.expect("it answers");
                assert_eq!((health.jobs_live, health.jobs_ended), (0, 200));
                env.close().await;
            });
        };
        // The history is full.
        run(500);
        let before = idle.warmed_up();
        let begun = Instant::now();
        run(jobs);
        println!("{jobs} jobs in a row: {:.0} a second", jobs as f64 / begun.elapsed().as_secs_f64());
        before.assert_same(&format!("{jobs} jobs in a row"), 8 << 20);
        node.end();
    });
}

/// Connects and says what is none of a client's business, or nothing at all.
fn be_strange(address: &str, number: usize, held: &mut VecDeque<TcpStream>) {
    let Ok(mut stream) = TcpStream::connect(address) else { return };
    // The node may close it at any time.
    let _ = match number % 4 {
        0 => stream.write_all(b"GET / HTTP/1.1\r\nHost: nobody\r\n\r\n"),
        1 => stream.write_all(&[number.to_le_bytes()[0]; 64]),
        2 => {
            let said = stream.write_all(b"PROSCNM\n");
            // Says the beginning of a hello, and then nothing.
            held.push_back(stream);
            return drop(said);
        }
        _ => {
            held.push_back(stream);
            return;
        }
    };
    if number.is_multiple_of(8) {
        let _ = stream.set_read_timeout(Some(Duration::from_secs(1))).and_then(|()| stream.read(&mut [0; 256]));
    }
}

#[test]
fn strangers_keep_no_client_out_and_leave_nothing() {
    in_child("load::strangers_keep_no_client_out_and_leave_nothing", LIMIT, || {
        let strangers = if is_long() { 10_000 } else { 600 };
        many_descriptors();
        let node = NodeProcess::start(&Limits::default());
        let idle = Weight::of(&node);
        let before = idle.warmed_up();
        let (over, address) = (Arc::new(AtomicBool::new(false)), node.address().to_owned());
        let crowd = {
            let over = Arc::clone(&over);
            thread::spawn(move || {
                // Half of them are slow: they stay, a thousand at a time.
                let mut held = VecDeque::new();
                for number in 0..strangers {
                    be_strange(&address, number, &mut held);
                    while held.len() > 1_000 {
                        held.pop_front();
                    }
                }
                over.store(true, Ordering::Release);
                held
            })
        };
        let (mut rounds, mut slowest) = (0, Duration::ZERO);
        runtime().block_on(async {
            while rounds < 3 || !over.load(Ordering::Acquire) {
                let begun = Instant::now();
                run_a_job(&before.client).await;
                // A client that comes anew has to prove itself among the strangers.
                let newcomer = node.connect().await.expect("it gets in");
                run_a_job(&newcomer).await;
                newcomer.close().await;
                slowest = slowest.max(begun.elapsed());
                rounds += 1;
            }
        });
        println!("{strangers} strangers: meanwhile {rounds} clients came, the slowest was served after {slowest:.2?}");
        drop(crowd.join().expect("the crowd has dispersed"));
        before.assert_same(&format!("{strangers} strangers"), 8 << 20);
        node.end();
    });
}

/// Silent connections to a node from 127.0.`network`.x, so many a second, until told that it is over. How many came.
fn flood(node: &str, network: u8, rate: u32, over: &Arc<AtomicBool>) -> thread::JoinHandle<usize> {
    let (node, over) = (node.parse().expect("it is an address"), Arc::clone(over));
    thread::spawn(move || {
        runtime().block_on(async {
            let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate * 10);
            let (mut held, mut came) = (VecDeque::new(), 0usize);
            while !over.load(Ordering::Acquire) {
                ticks.tick().await;
                for _ in 0..10 {
                    let socket = TcpSocket::new_v4().expect("a descriptor is free");
                    // Not the address of the clients.
                    let host = u8::try_from(2 + came % 250).expect("it is small");
                    socket.bind(([127, 0, network, host], 0).into()).expect("a port is free");
                    let connected = tokio::time::timeout(Duration::from_secs(1), socket.connect(node)).await;
                    held.extend(connected.ok().and_then(Result::ok));
                    came += 1;
                }
                while held.len() > 12_000 {
                    held.pop_front();
                }
            }
            came
        })
    })
}

/// How many of `clients` get in while silent connections come from 127.0.`network`.x. Each is 150 ms away, there and back.
fn get_in_among_strangers(node: &NodeProcess, network: u8, clients: usize) -> usize {
    const RATE: u32 = 2_000;
    let over = Arc::new(AtomicBool::new(false));
    let flood = flood(node.address(), network, RATE, &over);
    let proxy = Proxy::to(node.address().parse().expect("it is an address"));
    proxy.delay(Duration::from_millis(75));
    let (got_in, begun) = runtime().block_on(async {
        // Until the strangers are as many as they will be.
        let watch = node.connect().await.expect("it gets in before the flood");
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(2) {
            watch.health().await.expect("it answers");
        }
        let begun = Instant::now();
        let connecting = (0..clients).map(|_| {
            let env = RemoteEnvironment::connect("distant", proxy.address()).key(node.key());
            async move {
                let env = env.connect_limit(Duration::from_secs(5)).await.ok()?;
                env.health().await.ok()
            }
        });
        let got_in = stream::iter(connecting).buffer_unordered(4).filter_map(std::future::ready).count().await;
        (got_in, begun)
    });
    let took = begun.elapsed();
    over.store(true, Ordering::Release);
    let came = flood.join().expect("the flood is over");
    println!(
        "{came} silent connections from 127.0.{network}.x: {got_in} of {clients} clients got in, within {took:.1?}"
    );
    got_in
}

#[test]
fn a_flood_of_strangers_keeps_no_client_of_another_network_out() {
    in_child("load::a_flood_of_strangers_keeps_no_client_of_another_network_out", LIMIT, || {
        many_descriptors();
        // With few descriptors room for strangers is short, and has to be made all the time.
        let mut few = Command::new("sh");
        few.args(["-c", r#"ulimit -n 1024; exec "$0" "$@""#]).arg(env::current_exe().expect("this is a program"));
        let node = NodeProcess::set_up_by(&NodeSetup::default(), few);
        let clients = if is_long() { 20 } else { 8 };
        let got_in = get_in_among_strangers(&node, 2, clients);
        assert!(got_in + 1 >= clients, "{got_in} of {clients}");
        // In the flood's own network they take their chance with all others.
        get_in_among_strangers(&node, 0, clients);
        node.end();
        if is_long() {
            let node = NodeProcess::start(&Limits::default());
            let got_in = [get_in_among_strangers(&node, 2, clients), get_in_among_strangers(&node, 0, clients)];
            assert_eq!(got_in, [clients; 2], "there is room for all");
            node.end();
        }
    });
}
