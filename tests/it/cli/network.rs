//! A network between the command line and a node that is cut, for less and for more than a lost connection is waited for:
//! two hosts of the test's own, in network namespaces, which only root can make; so this runs where the gate says that it
//! can.

use std::{
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use super::{Said, User};

const NODE: &str = "192.0.2.1";
const CLIENT: &str = "192.0.2.2";

fn is_asked_for() -> bool {
    std::env::var_os("PROSCENIUM_NETWORKS").is_some()
}

fn run(line: &str) {
    let status = Command::new("sh").args(["-c", line]).status().expect("there is a shell");
    assert!(status.success(), "{line}");
}

/// Blocks: nothing is ever sent.
fn let_pass(time: Duration) {
    let (_nothing, nothing) = mpsc::channel::<()>();
    assert!(nothing.recv_timeout(time).is_err());
}

/// Two hosts and the cable between them; they go when it is dropped.
struct Network {
    node: String,
    client: String,
}

impl Network {
    fn new(name: &str) -> Self {
        let process = std::process::id();
        let (node, client) = (format!("{name}-n-{process}"), format!("{name}-c-{process}"));
        let network = Self { node, client };
        let Self { node, client } = &network;
        run(&format!("ip netns add {node} && ip netns add {client}"));
        run(&format!("ip link add cable netns {node} type veth peer name cable netns {client}"));
        for (host, address) in [(node, NODE), (client, CLIENT)] {
            run(&format!("ip -n {host} addr add {address}/24 dev cable && ip -n {host} link set cable up"));
        }
        network
    }

    fn cut(&self) {
        run(&format!("ip -n {} link set cable down", self.client));
    }

    fn heal(&self) {
        run(&format!("ip -n {} link set cable up", self.client));
    }

    /// The words of a command, typed on one of the hosts.
    fn on<'a>(host: &'a str, words: &[&'a str]) -> Vec<String> {
        let place = ["netns", "exec", host, env!("CARGO_BIN_EXE_proscenium")];
        place.iter().chain(words).map(|word| (*word).to_owned()).collect()
    }

    fn command(&self, user: &User, host: &str, words: &[&str]) -> Command {
        let template = user.command(&[]);
        let mut command = Command::new("ip");
        command.args(Self::on(host, words));
        for (name, value) in template.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn begins(&self, user: &User, words: &[&str]) -> Child {
        self.command(user, &self.client, words).spawn().expect("there is `ip`")
    }

    /// Typed on the client's host.
    fn types(&self, user: &User, words: &[&str]) -> Said {
        ended(self.begins(user, words))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in [&self.node, &self.client] {
            let _ = Command::new("ip").args(["netns", "del", host]).status();
        }
    }
}

/// What the command says by its end, which may take as long as a lost connection is waited for.
fn ended(child: Child) -> Said {
    let (done, is_done) = mpsc::channel();
    std::thread::spawn(move || done.send(child.wait_with_output()));
    let output = is_done.recv_timeout(Duration::from_secs(90)).expect("it ends in time").expect("it can be waited for");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it prints text");
    Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

fn with_node(network: &Network) -> User {
    let mut user = User::new();
    user.address = format!("{NODE}:19001");
    let start =
        network.command(&user, &network.node, &["jobmanager", "start", "--daemon"]).spawn().expect("there is `ip`");
    ended(start).with(0);
    user
}

#[test]
fn a_network_that_is_cut_and_heals_delays_a_wait_and_falsifies_nothing() {
    if !is_asked_for() {
        return;
    }
    let network = Network::new("cut");
    let user = with_node(&network);
    let types = |words: &[&str]| network.types(&user, words);
    let limited = |limit: &str| -> Vec<String> {
        ["job", "submit", "ticker", "--autostop", "--run-limit", limit, "--wait"].map(str::to_owned).to_vec()
    };
    let begin = |limit: &str| {
        let words = limited(limit);
        network.begins(&user, &words.iter().map(String::as_str).collect::<Vec<_>>())
    };
    // Cut for less than a lost connection is waited for, while the job ends.
    let waiting = begin("4s");
    let_pass(Duration::from_secs(2));
    network.cut();
    let begun = Instant::now();
    let said = types(&["job", "list"]).with(3);
    assert!(said.err.contains("no node could be reached") && begun.elapsed() < Duration::from_secs(20), "{said:?}");
    network.heal();
    assert!(ended(waiting).with(12).out.contains("cancelled (run limit reached)"));
    // Cut for longer: the wait is given up, and says that the job may go on, as it does.
    let waiting = begin("600s");
    let_pass(Duration::from_secs(2));
    network.cut();
    let said = ended(waiting).with(3);
    assert!(said.err.contains("the node cannot be reached"), "{said:?}");
    let id = said.out.lines().next().expect("it says which job it is").to_owned();
    network.heal();
    assert!(types(&["job", "status", &id]).well().contains("running"));
    types(&["job", "stop", &id, "--wait"]).with(11);
    types(&["jobmanager", "stop"]).with(0);
}
