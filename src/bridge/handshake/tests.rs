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

/// Both sides over one pipe; a side that is done lets go of it.
async fn meet(client: Key, node: Key, bindings: [&[u8]; 2]) -> (Result<Peer, HelloError>, Result<Peer, HelloError>) {
    let (mut here, mut there) = duplex(1024);
    let [on_client, on_node] = bindings;
    let client = async move { connect_with(&mut here, &client, client_hello(), on_client).await };
    let node = async move { accept_with(&mut there, &node, node_hello(), on_node).await };
    join(client, node).await
}

/// What each side says when all goes well.
fn recorded() -> (Vec<u8>, Vec<u8>) {
    let (client, node) = (client_hello().to_bytes(), node_hello().to_bytes());
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
    let (here, mut there) = duplex(1024);
    let node = async move { accept_with(&mut there, &key(), node_hello(), b"").await };
    join(node, say(here, bytes)).await
}

async fn client_hears(bytes: &[u8]) -> (Result<Peer, HelloError>, Vec<u8>) {
    let (here, mut there) = duplex(1024);
    let client = async move { connect_with(&mut there, &key(), client_hello(), b"").await };
    join(client, say(here, bytes)).await
}

#[test]
fn two_who_have_the_same_key_know_each_other_afterwards() {
    let (client, node) = run(meet(key(), key(), [b"", b""]));
    assert_eq!((client, node), (Ok(Peer { who: 2 }), Ok(Peer { who: 1 })));
    run(async {
        let (by_client, by_node) = recorded();
        assert_eq!(node_hears(&by_client).await, (Ok(Peer { who: 1 }), by_node.clone()));
        assert_eq!(client_hears(&by_node).await, (Ok(Peer { who: 2 }), by_client));
    });
}

#[test]
fn another_key_is_refused_with_what_to_do() {
    let (client, node) = run(meet(Key::generate(), key(), [b"", b""]));
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

#[test]
fn proofs_hold_for_the_stream_they_were_made_for() {
    let (client, node) = run(meet(key(), key(), [b"one stream", b"another"]));
    assert_eq!(node, Err(HelloError::WrongKey));
    assert!(matches!(client, Err(HelloError::Refused(_))));
}

#[test]
fn what_was_recorded_does_not_open_a_new_connection() {
    let (by_client, _) = recorded();
    run(async {
        let (mut here, mut there) = duplex(1024);
        let node = async move { accept_with(&mut there, &key(), Hello::new(2, [3; 32]), b"").await };
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
        let (mut here, mut there) = duplex(1024);
        let client = async move { connect_with(&mut there, &key(), client_hello(), b"").await };
        let mirror = async move {
            let hello: [u8; HELLO_BYTES] = receive(&mut here).await.expect("the client says hello");
            let _ = send(&mut here, &[&[ACCEPT], &hello[..]].concat()).await;
            let mut heard = Vec::new();
            let _ = here.read_to_end(&mut heard).await;
        };
        assert_eq!(join(client, mirror).await.0, Err(HelloError::Reflected));
        // Nor a proof, which is made under the client's own key.
        let (client, node) = (client_hello().to_bytes(), node_hello().to_bytes());
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
    assert_eq!(result, Err(HelloError::Version { here: 1, there: 9 }));
    let (client, _) = run(client_hears(&heard));
    let sentence = "the peer refused: the peer speaks version 1 of the protocol and this side version 9: use the same \
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
            if hello { (&by_client[..HELLO_BYTES], &by_node[..=HELLO_BYTES]) } else { (&[][..], &[][..]) };
        run(async {
            assert!(node_hears(&[client, &bytes].concat()).await.0.is_err());
            assert!(client_hears(&[node, &bytes].concat()).await.0.is_err());
        });
    }
}
