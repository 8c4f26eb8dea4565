use futures::future::join;
use proptest::prelude::*;
use tokio::io::{DuplexStream, duplex};

use super::*;

fn key() -> Key {
    Key::from_bytes(&[7; 32]).expect("32 bytes are enough")
}

fn client_hello() -> Hello {
    Hello::new(1, [1; 32])
}

fn node_hello() -> Hello {
    Hello::new(2, [2; 32])
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let limit = std::time::Duration::from_secs(20);
    runtime.block_on(async { tokio::time::timeout(limit, future).await.expect("nothing in here waits for long") })
}

fn over(stream: DuplexStream) -> Dialled {
    Dialled { stream: Box::new(stream), reach: Reach::Machine, from: None }
}

async fn client_over(key: &Key, encryption: ClientEncryption, stream: DuplexStream) -> Result<Peer, HelloError> {
    let side = ClientSide { key, client: 1, encryption: &encryption, host: Host::shared_by_tests() };
    side.connect_as(client_hello(), over(stream)).await.map(|established| established.peer)
}

async fn node_over(key: &Key, hello: Hello, stream: DuplexStream) -> Result<Peer, HelloError> {
    let (encryption, keys) = (NodeEncryption::of_tests(), KeyRing::of_tests(key.clone()));
    let side = NodeSide { keys: &keys, incarnation: 2, encryption: &encryption, host: Host::shared_by_tests() };
    side.accept_as(hello, over(stream)).await.map(|established| established.peer.0).map_err(|(error, _)| error)
}

/// Both sides over one pipe; a side that is done lets go of it.
async fn meet(client: Key, node: Key) -> (Result<Peer, HelloError>, Result<Peer, HelloError>) {
    let (here, there) = duplex(1024);
    let client = async move { client_over(&client, ClientEncryption::default(), here).await };
    let node = async move { node_over(&node, node_hello(), there).await };
    join(client, node).await
}

/// What each side says when all goes well.
fn recorded() -> (Vec<u8>, Vec<u8>) {
    let (client, node) = (client_hello().with_key(key().id()), node_hello().to_bytes());
    let transcript = Transcript { client: &client, node: &node, binding: b"" };
    let by_client = [&client[..], &transcript.prove(&key(), Role::Client)].concat();
    let by_node = [&[ACCEPT], &node[..], &[ACCEPT], &transcript.prove(&key(), Role::Node)].concat();
    (by_client, by_node)
}

/// Says `bytes` and nothing more, and reads whatever comes.
async fn say(mut stream: DuplexStream, bytes: &[u8]) -> Vec<u8> {
    // A side that refuses may have gone before all is said.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut heard = Vec::new();
    let _ = stream.read_to_end(&mut heard).await;
    heard
}

async fn node_hears(bytes: &[u8]) -> (Result<Peer, HelloError>, Vec<u8>) {
    let (here, there) = duplex(1024);
    let node = async move { node_over(&key(), node_hello(), there).await };
    join(node, say(here, bytes)).await
}

async fn client_hears(bytes: &[u8]) -> (Result<Peer, HelloError>, Vec<u8>) {
    let (here, there) = duplex(1024);
    let client = async move { client_over(&key(), ClientEncryption::default(), there).await };
    join(client, say(here, bytes)).await
}

#[test]
fn two_who_have_the_same_key_know_each_other_afterwards() {
    let (client, node) = run(meet(key(), key()));
    assert_eq!((client, node), (Ok(Peer { who: 2 }), Ok(Peer { who: 1 })));
    run(async {
        let (by_client, by_node) = recorded();
        assert_eq!(node_hears(&by_client).await, (Ok(Peer { who: 1 }), by_node.clone()));
        assert_eq!(client_hears(&by_node).await, (Ok(Peer { who: 2 }), by_client));
    });
}

#[test]
fn another_key_is_refused_with_what_to_do() {
    let (client, node) = run(meet(Key::generate(), key()));
    assert_eq!(node, Err(HelloError::WrongKey));
    let Err(HelloError::Refused(text)) = client else { panic!("{client:?}") };
    assert!(text.contains("PROSCENIUM_KEY"), "{text}");
}

#[test]
fn a_node_that_does_not_know_the_key_is_found_out() {
    let (_, mut by_node) = recorded();
    *by_node.last_mut().expect("it has bytes") ^= 1;
    assert_eq!(run(client_hears(&by_node)).0, Err(HelloError::WrongKey));
}

/// Somebody between a client and a node, who does not have their key.
#[cfg(feature = "tls")]
mod between {
    use super::*;
    use crate::bridge::{stream::Stream, tls::RawIdentity};

    type Boxed = Box<dyn Stream>;

    /// What becomes of both, when `middle` is between them. Whether each wants encryption.
    async fn with<F: Future<Output = ()>>(
        wanted: [bool; 2],
        middle: impl FnOnce(Boxed, Boxed) -> F,
    ) -> (Result<Peer, HelloError>, Result<Peer, HelloError>) {
        let ((client_end, to_client), (to_node, node_end)) = (duplex(4096), duplex(4096));
        let client = async move {
            let encryption = ClientEncryption { always: wanted[0], ..ClientEncryption::default() };
            client_over(&key(), encryption, client_end).await
        };
        let node = async move {
            let raw = RawIdentity::of_seed(&[9; 32]).expect("any 32 bytes are a key");
            let encryption = NodeEncryption::new(wanted[1], raw, None);
            let keys = KeyRing::of_tests(key());
            let side = NodeSide { keys: &keys, incarnation: 2, encryption: &encryption, host: Host::shared_by_tests() };
            let accepted = side.accept_as(node_hello(), over(node_end)).await;
            accepted.map(|established| established.peer.0).map_err(|(error, _)| error)
        };
        let middle = middle(Box::new(to_client), Box::new(to_node));
        let ((client, node), ()) = join(join(client, node), middle).await;
        (client, node)
    }

    /// Passes on both hellos, changed as `change` says.
    async fn pass_hellos(client: &mut Boxed, node: &mut Boxed, change: impl Fn(&mut [u8], &mut [u8])) -> Hello {
        let mut said = receive::<_, CLIENT_HELLO_BYTES>(client).await.expect("the client says hello");
        let original = Hello::from_bytes(said.first_chunk().expect("it is longer")).expect("it is a hello");
        let mut nothing = [0; HELLO_BYTES + 1];
        change(&mut said, &mut nothing);
        send(node, &said).await.expect("the node listens");
        let mut answer = receive::<_, { HELLO_BYTES + 1 }>(node).await.expect("the node answers");
        change(&mut said, &mut answer);
        send(client, &answer).await.expect("the client listens");
        original
    }

    /// Passes on everything, until one of them is gone.
    async fn pass(mut client: Boxed, mut node: Boxed) {
        // How it ends shows on both sides.
        let _ = tokio::io::copy_bidirectional(&mut client, &mut node).await;
    }

    #[test]
    fn one_who_passes_everything_on_is_not_noticed_whichever_side_wants_encryption() {
        for wanted in [[false, false], [true, false], [false, true], [true, true]] {
            let met = run(with(wanted, pass));
            assert_eq!(met, (Ok(Peer { who: 2 }), Ok(Peer { who: 1 })), "{wanted:?}");
        }
    }

    #[test]
    fn one_who_encrypts_with_either_side_and_passes_on_their_proofs_is_found_out() {
        let (client, node) = run(with([true, false], async |mut client: Boxed, mut node: Boxed| {
            let said = pass_hellos(&mut client, &mut node, |_, _| {}).await;
            let raw = RawIdentity::of_seed(&[1; 32]).expect("any 32 bytes are a key");
            let as_node = NodeEncryption::new(true, raw, None);
            let as_client = ClientEncryption::default();
            let (to_client, to_node) = join(as_node.seal(client, &said), as_client.seal(node, None)).await;
            let (to_client, to_node) = (to_client.expect("it is sealed"), to_node.expect("it is sealed"));
            assert_ne!(to_client.binding, to_node.binding);
            pass(to_client.stream, to_node.stream).await;
        }));
        assert_eq!(node, Err(HelloError::WrongKey));
        assert!(matches!(&client, Err(HelloError::Refused(text)) if text.contains("key")), "{client:?}");
    }

    #[test]
    fn a_need_for_encryption_that_is_kept_from_either_side_lets_nobody_in() {
        for (wanted, to_client) in [([true, false], false), ([false, true], true)] {
            let (client, node) = run(with(wanted, async move |mut client: Boxed, mut node: Boxed| {
                let change = |said: &mut [u8], answer: &mut [u8]| {
                    if to_client { answer[13] &= !1 } else { said[12] &= !1 }
                };
                pass_hellos(&mut client, &mut node, change).await;
                pass(client, node).await;
            }));
            assert!(client.is_err() && node.is_err(), "{client:?}, {node:?}");
        }
        // From both, so that neither encrypts: the proofs cover what was said.
        let (client, node) = run(with([false, false], async |mut client: Boxed, mut node: Boxed| {
            pass_hellos(&mut client, &mut node, |said, _| said[12] |= 4).await;
            pass(client, node).await;
        }));
        assert!(matches!(client, Err(HelloError::Refused(_))), "{client:?}");
        assert_eq!(node, Err(HelloError::WrongKey));
    }

    #[test]
    fn a_certificate_that_the_node_does_not_have_is_refused_by_name() {
        let mut said = client_hello().needing_encryption(true).wanting_certificate(true).with_key(key().id()).to_vec();
        said.extend([0; 32]);
        let (result, heard) = run(node_hears(&said));
        assert_eq!(result, Err(HelloError::NoCertificate));
        assert!(String::from_utf8_lossy(&heard).contains("the node has no certificate"), "{heard:?}");
    }
}

#[test]
fn peers_of_version_1_are_told_so_in_words_or_in_tls() {
    // What a client of version 1 says: as long as the first part of this version's.
    let mut first = client_hello().to_bytes();
    first[8] = 1;
    let (result, heard) = run(node_hears(&first));
    assert_eq!(result, Err(HelloError::Version { here: 5, there: 1 }));
    let text = b"the peer speaks version 5 of the protocol and this side version 1: use the same release on both";
    assert_eq!(heard, [&[REFUSE, text.len() as u8, 0], &text[..]].concat());
    // What a node of version 1 answers, recorded.
    let text = b"the peer speaks version 1 of the protocol and this side version 2: use the same release on both";
    let (client, _) = run(client_hears(&[&[REFUSE, text.len() as u8, 0], &text[..]].concat()));
    assert!(matches!(&client, Err(HelloError::Refused(said)) if said.contains("version 1")), "{client:?}");
    // A node of version 1 with a certificate speaks TLS from the first byte; so does its client.
    assert_eq!(run(client_hears(&TLS_OTHER_VERSION)).0, Err(HelloError::Tls));
    let (result, heard) = run(node_hears(&[TLS_HANDSHAKE, 3, 1, 2, 0]));
    assert_eq!((result, heard), (Err(HelloError::Tls), TLS_OTHER_VERSION.to_vec()));
}

#[test]
fn what_was_recorded_does_not_open_a_new_connection() {
    let (by_client, _) = recorded();
    run(async {
        let (mut here, there) = duplex(1024);
        let node = async move { node_over(&key(), Hello::new(2, [3; 32]), there).await };
        let replay = async move {
            let _ = here.write_all(&by_client).await;
            let mut heard = Vec::new();
            let _ = here.read_to_end(&mut heard).await;
        };
        assert_eq!(join(node, replay).await.0, Err(HelloError::WrongKey));
    });
}

#[test]
fn a_client_does_not_take_its_own_words_for_a_nodes() {
    run(async {
        let (mut here, there) = duplex(1024);
        let client = async move { client_over(&key(), ClientEncryption::default(), there).await };
        let mirror = async move {
            let hello: [u8; CLIENT_HELLO_BYTES] = receive(&mut here).await.expect("the client says hello");
            let _ = send(&mut here, &[&[ACCEPT], &hello[..HELLO_BYTES]].concat()).await;
            let mut heard = Vec::new();
            let _ = here.read_to_end(&mut heard).await;
        };
        assert_eq!(join(client, mirror).await.0, Err(HelloError::Reflected));
        // Nor a proof, which is made under the client's own key.
        let (client, node) = (client_hello().with_key(key().id()), node_hello().to_bytes());
        let proof = Transcript { client: &client, node: &node, binding: b"" }.prove(&key(), Role::Client);
        let reflected = [&[ACCEPT], &node[..], &[ACCEPT], &proof].concat();
        assert_eq!(client_hears(&reflected).await.0, Err(HelloError::WrongKey));
    });
}

#[test]
fn a_stranger_gets_an_answer_at_its_first_wrong_byte() {
    let (result, heard) = run(node_hears(b"GET / HTTP/1.1\r\n"));
    assert_eq!(result, Err(HelloError::NotProscenium));
    let text = b"this is a proscenium node, and what came is not its protocol";
    assert_eq!(heard, [&[REFUSE, text.len() as u8, 0], &text[..]].concat(), "the bytes of a refusal do not change");
}

#[test]
fn another_version_is_refused_in_a_sentence_that_is_right_for_the_reader() {
    let (mut by_client, _) = recorded();
    by_client[8] = 9;
    let (result, heard) = run(node_hears(&by_client));
    assert_eq!(result, Err(HelloError::Version { here: 5, there: 9 }));
    let (client, _) = run(client_hears(&heard));
    let sentence = "the peer refused: the peer speaks version 5 of the protocol and this side version 9: use the same \
                    release on both";
    assert_eq!(client.unwrap_err().to_string(), sentence);
}

#[test]
fn cut_at_any_byte_both_sides_end_with_an_error() {
    let (by_client, by_node) = recorded();
    run(async {
        for cut in 0..by_client.len() {
            assert_eq!(node_hears(&by_client[..cut]).await.0, Err(HelloError::Closed), "cut at {cut}");
        }
        for cut in 0..by_node.len() {
            assert_eq!(client_hears(&by_node[..cut]).await.0, Err(HelloError::Closed), "cut at {cut}");
        }
    });
}

#[test]
fn any_other_byte_is_refused() {
    let (by_client, by_node) = recorded();
    run(async {
        for at in 0..by_client.len() {
            let mut bytes = by_client.clone();
            bytes[at] ^= 0x40;
            assert!(node_hears(&bytes).await.0.is_err(), "byte {at}");
        }
        for at in 0..by_node.len() {
            let mut bytes = by_node.clone();
            bytes[at] ^= 0x40;
            assert!(client_hears(&bytes).await.0.is_err(), "byte {at}");
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn arbitrary_bytes_prove_nothing(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        hello in any::<bool>(),
    ) {
        let (by_client, by_node) = recorded();
        let (client, node) =
            if hello { (&by_client[..CLIENT_HELLO_BYTES], &by_node[..=HELLO_BYTES]) } else { (&[][..], &[][..]) };
        run(async {
            assert!(node_hears(&[client, &bytes].concat()).await.0.is_err());
            assert!(client_hears(&[node, &bytes].concat()).await.0.is_err());
        });
    }
}
