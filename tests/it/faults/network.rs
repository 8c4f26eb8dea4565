//! A node and a client in network namespaces of their own, with a line between them that loses, delays and reorders
//! packets, and is cut and healed. In the long campaign only: it takes the rights of root, and `ip` and `tc`.

use std::{
    env,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
};

use futures::future::join3;
use proscenium::{CallError, Environment, Outcome, RemoteEnvironment};

use super::{SILENCE, Talkative, until_written, wire::key};
use crate::{
    leaks::child::is_long,
    support::{Answer, Counter, Echo, Increment, Journal, NodeProcess, NodeSetup, Pen, Total, on_a_thread, read},
};

const NODE: &str = "10.231.0.1";
const CLIENT: &str = "10.231.0.2";
/// The end of the line in either namespace.
const DEVICE: &str = "line";

/// Runs a command, which has to end well. What it prints.
fn run(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().expect("a command is not empty")).args(words).output();
    let output = output.unwrap_or_else(|error| panic!("{command}: {error}"));
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("what it prints is text")
}

/// Two namespaces and a line between them, for as long as this lives.
struct Line {
    node: String,
    client: String,
}

impl Line {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = |side| format!("proscenium-{}-{number}-{side}", std::process::id());
        let line = Self { node: name("node"), client: name("client") };
        let (node, client) = (&line.node, &line.client);
        run(&format!("ip netns add {node}"));
        run(&format!("ip netns add {client}"));
        run(&format!("ip link add {DEVICE} netns {node} type veth peer name {DEVICE} netns {client}"));
        for (side, address) in [(node, NODE), (client, CLIENT)] {
            run(&format!("ip -n {side} addr add {address}/24 dev {DEVICE}"));
            // Packets as they would be on a wire.
            run(&format!("ip -n {side} link set {DEVICE} gso_max_segs 1"));
            run(&format!("ip -n {side} link set lo up"));
            run(&format!("ip -n {side} link set {DEVICE} up"));
        }
        line
    }

    /// From now on one packet of 64 is lost either way, and one of 16 takes a way of its own, so slow that others
    /// overtake it. By classes of traffic, which kernels have that have no emulator of networks.
    fn spoil(&self) {
        for side in [&self.node, &self.client] {
            let tc = |what: &str| run(&format!("tc -n {side} {what}"));
            tc(&format!("qdisc add dev {DEVICE} root handle 1: htb default 1"));
            tc(&format!("class add dev {DEVICE} parent 1: classid 1:1 htb rate 50mbit"));
            tc(&format!("class add dev {DEVICE} parent 1: classid 1:2 htb rate 400kbit burst 1600 cburst 1600"));
            tc(&format!("class add dev {DEVICE} parent 1: classid 1:3 htb rate 1mbit"));
            // Nothing fits in.
            tc(&format!("qdisc add dev {DEVICE} parent 1:3 handle 30: bfifo limit 1"));
            // By the number of the packet, which is another one when it is sent again.
            for (bits, class) in [("0x0001 0x003f", 3), ("0x0000 0x000f", 2)] {
                let tcp = "u32 match ip protocol 6 0xff";
                tc(&format!(
                    "filter add dev {DEVICE} parent 1: protocol ip prio 1 {tcp} match u16 {bits} at 4 flowid 1:{class}"
                ));
            }
        }
    }

    fn set(&self, side: &str, state: &str) {
        run(&format!("ip -n {side} link set {DEVICE} {state}"));
    }

    /// This program, in a namespace.
    fn program_in(side: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", side]).arg(env::current_exe().expect("this is a program"));
        command
    }

    fn node(&self) -> NodeProcess {
        let address = format!("{NODE}:0");
        let setup = NodeSetup { address, silence: Some(2 * SILENCE), ..NodeSetup::default() };
        NodeProcess::set_up_by(&setup, Self::program_in(&self.node))
    }

    fn client(&self, errand: &Errand) -> Child {
        let test = "faults::network::a_test_binary_can_be_a_client_at_the_end_of_a_line";
        Self::program_in(&self.client)
            .args([test, "--exact", "--nocapture"])
            .env(ERRAND, serde_json::to_string(errand).expect("it is plain data"))
            .stdout(Stdio::null())
            .spawn()
            .expect("a process can be made")
    }

    /// Packets that came to one of the two out of their order, as the kernel counts them.
    fn reordered(&self) -> u64 {
        let of = |side| {
            let text = run(&format!("ip netns exec {side} cat /proc/net/netstat"));
            let [names, values] = [0, 1].map(|n| text.lines().nth(n).expect("it has two lines").split_whitespace());
            let (_, value) = names.zip(values).find(|(name, _)| *name == "TCPOFOQueue").expect("it is counted");
            value.parse::<u64>().expect("it is a number")
        };
        of(&self.node) + of(&self.client)
    }

    fn lost(&self) -> u64 {
        let text = run(&format!("tc -n {} -s qdisc show dev {DEVICE} handle 30:", self.client));
        let (_, rest) = text.split_once("(dropped ").expect("it is counted");
        rest.split(',').next().and_then(|number| number.parse().ok()).expect("it is a number")
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        for side in [&self.node, &self.client] {
            // The line goes with them. There may be nothing to remove.
            let _ = Command::new("ip").args(["netns", "del", side]).output();
        }
    }
}

const ERRAND: &str = "PROSCENIUM_TEST_ERRAND";

/// What the client is to do.
#[derive(serde::Serialize, serde::Deserialize)]
struct Errand {
    address: String,
    pen: Pen,
    /// How often it will lose its connection.
    losses: u64,
    /// How many runs of items it sends at least.
    runs: u64,
}

/// Items sent at a time: many packets.
const RUN: u64 = 20_000;

/// Not a test, but what the others start: sends items and reads what becomes of them, and calls meanwhile.
#[test]
fn a_test_binary_can_be_a_client_at_the_end_of_a_line() {
    let Ok(errand) = env::var(ERRAND) else { return };
    let Errand { address, pen, losses, runs } = serde_json::from_str(&errand).unwrap();
    let connect = RemoteEnvironment::connect("test", address).key(key());
    let connect = connect.heartbeat(SILENCE / 5, 2 * SILENCE).connect_limit(2 * SILENCE);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let all = async {
        let env = connect.await.unwrap();
        let job = env.submit(Talkative { pen: pen.clone() }).autostop(true).await.unwrap();
        let (counter, echo) = (job.service::<Counter>("counter"), job.service::<Echo>("echo"));
        let (numbers, done) = (job.input::<u64>("numbers"), tokio::sync::watch::Sender::new(false));
        // What is not opened yet waits for a connection, and has no fate.
        assert_eq!((counter.call(Total).await, echo.call(Answer(0)).await), (Ok(0), Ok(0)));
        pen.write("begun");
        let sending = async {
            let mut sent = 0;
            while sent < runs * RUN || !*done.borrow() {
                numbers.send_all(sent..sent + RUN).await.unwrap();
                sent += RUN;
                // Not more than the job can be asked about.
                echo_or_lost(echo.call(Answer(sent)).await, sent);
            }
            sent
        };
        let calling = async {
            let (mut handled, mut unknown) = (0, 0);
            let mut lost = 0;
            while lost < losses {
                match counter.call(Increment).await {
                    Ok(_) => handled += 1,
                    Err(CallError::FateUnknown { .. }) => {
                        (lost, unknown) = (lost + 1, unknown + 1);
                        pen.write(format_args!("lost {lost}"));
                        // Waits for the connection, however long that takes.
                        env.health().await.unwrap();
                        pen.write(format_args!("back {lost}"));
                    }
                    Err(error) => panic!("{error:?}"),
                }
                tokio::task::yield_now().await;
            }
            done.send_replace(true);
            (handled, unknown)
        };
        let reading = async {
            let mut live = job.output::<u64>("live");
            let mut next = 0;
            while let Some(item) = live.next().await.unwrap() {
                assert_eq!(item, next * 2, "each once, in order");
                next += 1;
            }
            next
        };
        let finishing = async {
            let (sent, calls) = futures::future::join(sending, calling).await;
            let total = counter.call(Total).await.unwrap();
            numbers.finish().await.unwrap();
            (sent, calls, total)
        };
        let ((sent, (handled, unknown), total), read_live, outcome) = join3(finishing, reading, job.wait()).await;
        assert_eq!((outcome, read_live), (Ok(Outcome::Completed), sent));
        assert!((handled..=handled + unknown).contains(&total), "{handled} + {unknown}: {total}");
        assert_eq!(read::<u64>(&job, "doubles").await.len() as u64, sent);
        assert_eq!(env.jobs().await.unwrap().len(), 1);
        env.close().await;
    };
    runtime.block_on(async { tokio::time::timeout(4 * crate::support::DEADLINE, all).await }).unwrap();
    pen.write("done");
}

fn echo_or_lost(answer: Result<u64, CallError>, expected: u64) {
    match answer {
        Ok(answer) => assert_eq!(answer, expected),
        Err(error) => assert!(matches!(error, CallError::FateUnknown { .. }), "{error:?}"),
    }
}

fn ends_well(mut client: Child) {
    let status = on_a_thread("the client's end", move || client.wait()).unwrap();
    assert!(status.success(), "{status}");
}

#[test]
fn a_line_that_loses_delays_and_reorders_packets_changes_nothing_but_the_time() {
    if !is_long() {
        return;
    }
    let line = Line::new();
    line.spoil();
    let (node, journal) = (line.node(), Journal::new());
    let errand = Errand { address: node.address().to_owned(), pen: journal.pen(), losses: 0, runs: 40 };
    ends_well(line.client(&errand));
    until_written(&journal, "done");
    let (lost, reordered) = (line.lost(), line.reordered());
    println!("{lost} packets of the client were lost, {reordered} came out of order");
    assert!(lost > 0 && reordered > 0, "the line was not as bad as it should have been: {lost}, {reordered}");
    node.end();
}

#[test]
fn a_line_that_is_cut_and_healed_delays_what_it_does_not_change() {
    if !is_long() {
        return;
    }
    let line = Line::new();
    let (node, journal) = (line.node(), Journal::new());
    let errand = Errand { address: node.address().to_owned(), pen: journal.pen(), losses: 4, runs: 2 };
    let client = line.client(&errand);
    until_written(&journal, "begun");
    for cut in 1..=4 {
        // On the one side the system knows that the line is down; on the other packets vanish.
        let side = if cut % 2 == 0 { &line.client } else { &line.node };
        line.set(side, "down");
        until_written(&journal, &format!("lost {cut}"));
        line.set(side, "up");
        until_written(&journal, &format!("back {cut}"));
    }
    ends_well(client);
    until_written(&journal, "done");
    node.end();
}
