//! Inputs that are pushed into from outside.

use futures::{
    FutureExt,
    future::{join, join_all},
};
use proscenium::{Input, InputError, JobHandle, JobState, Limits, Outcome, SendError};

use crate::support::{
    Door, Doorway, deadline, each_environment, each_environment_with, ended, job, reached, read, registered, sorted,
    start,
};

job!(Echoing {}, |job, flow| {
    flow.from_channel::<u64>("numbers").collect("out");
});

#[test]
fn items_come_out_in_the_order_they_were_pushed_and_finish_completes_the_job() {
    each_environment(async |env| {
        let job = start(env, Echoing {}).await;
        let numbers: Input<u64> = job.input("numbers");
        assert_eq!(numbers.name(), "numbers");
        for n in 0..100 {
            deadline("a send", numbers.send(n)).await.unwrap();
        }
        deadline("sends", numbers.send_all(100..50_000)).await.unwrap();
        numbers.finish().await.unwrap();
        numbers.finish().await.unwrap();
        assert_eq!(ended(&job).await, Outcome::Completed);
        assert_eq!(read::<u64>(&job, "out").await, (0..50_000).collect::<Vec<_>>());
    });
}

#[test]
fn several_senders_each_keep_their_order() {
    each_environment(async |env| {
        let job = start(env, Echoing {}).await;
        let numbers: Input<u64> = job.input("numbers");
        let senders = (0..8u64).map(|sender| {
            let numbers = numbers.clone();
            async move { numbers.send_all((0..5000).map(|n| n * 8 + sender)).await.unwrap() }
        });
        deadline("the senders", join_all(senders)).await;
        numbers.finish().await.unwrap();
        assert_eq!(ended(&job).await, Outcome::Completed);
        let out: Vec<u64> = read(&job, "out").await;
        for sender in 0..8 {
            let own: Vec<u64> = out.iter().copied().filter(|n| n % 8 == sender).collect();
            assert_eq!(own, (0..5000).map(|n| n * 8 + sender).collect::<Vec<_>>());
        }
    });
}

#[test]
fn an_input_whose_sender_vanished_goes_on_waiting_and_explain_says_so() {
    each_environment(async |env| {
        let job = start(env, Echoing {}).await;
        reached(&job, JobState::Running).await;
        let numbers: Input<u64> = job.input("numbers");
        numbers.send(1).await.unwrap();
        let said = async |expected: &str| {
            let task = "task `from_channel -> collect` (instance 0)";
            let all = format!("running\n  {task} waits for items pushed into input `numbers`: {expected}");
            deadline(expected, async {
                while job.explain().await.unwrap().to_string() != all {
                    tokio::task::yield_now().await;
                }
            })
            .await;
        };
        said("1 sender is open; it ends by `finish()` or `stop`").await;
        let clone = numbers.clone();
        said("2 senders are open; it ends by `finish()` or `stop`").await;
        drop((numbers, clone));
        said("no sender is left and it was not finished; call `finish()` or stop the job").await;
        assert_eq!(job.wait_timeout(std::time::Duration::ZERO).await.unwrap(), None);
        // Another sender may come.
        let numbers: Input<u64> = job.input("numbers");
        numbers.send(2).await.unwrap();
        numbers.finish().await.unwrap();
        assert_eq!(ended(&job).await, Outcome::Completed);
        assert_eq!(read::<u64>(&job, "out").await, [1, 2]);
    });
}

#[test]
fn what_is_pushed_after_finish_comes_back() {
    each_environment(async |env| {
        let job = start(env, Echoing {}).await;
        let (one, other): (Input<u64>, Input<u64>) = (job.input("numbers"), job.input("numbers"));
        one.send(1).await.unwrap();
        one.finish().await.unwrap();
        assert_eq!(ended(&job).await, Outcome::Completed);
        let refused = one.send(2).await.unwrap_err();
        assert_eq!(refused.error(), &InputError::Finished { input: "numbers".to_owned() });
        assert_eq!(refused.into_item(), 2);
        let error = other.send_all([3, 4, 5]).await.unwrap_err();
        let is_over = matches!(error.error(), InputError::Finished { .. } | InputError::Closed { .. });
        assert!(is_over, "{error:?}");
        assert_eq!(read::<u64>(&job, "out").await, [1]);
    });
}

job!(Throttled { door: Doorway }, |job, flow| {
    let door = job.door.clone();
    let numbers = flow.from_channel::<u64>("numbers").map_async(1, async move |_, n| {
        if n == 0 {
            door.pass(n).await;
        }
        Ok(n)
    });
    numbers.collect("out");
});

type Sending<'a> = std::pin::Pin<Box<dyn Future<Output = Result<(), SendError<u64>>> + 'a>>;

/// Sends 1, 2, .. until a send has to wait for room: how many did not, and the one that does.
async fn fill<'a>(job: &JobHandle, numbers: &'a Input<u64>) -> (usize, Sending<'a>) {
    let mut sent = 0;
    'next: loop {
        let mut sending: Sending<'a> = Box::pin(numbers.send(sent as u64 + 1));
        // What has room is taken before so many questions are answered that were asked later.
        for _ in 0..20 {
            if let Some(taken) = sending.as_mut().now_or_never() {
                taken.unwrap();
                sent += 1;
                continue 'next;
            }
            job.status().await.unwrap();
        }
        return (sent, sending);
    }
}

#[test]
fn senders_wait_while_the_input_is_full_and_lose_nothing() {
    let limits = Limits { port_items: 4, batch_items: 2, ..Limits::default() };
    each_environment_with(&limits, async |env| {
        let door = Door::new().await;
        let job = start(env, Throttled { door: door.way() }).await;
        let numbers: Input<u64> = job.input("numbers");
        numbers.send(0).await.unwrap();
        let visitor = door.arrival().await;
        let (sent, next) = fill(&job, &numbers).await;
        assert!((1..20).contains(&sent), "{sent} items were accepted where 4 have room");
        let rest: Vec<u64> = (sent as u64 + 2..100).collect();
        let mut waiting = Box::pin(numbers.send_all(rest));
        assert!(waiting.as_mut().now_or_never().is_none());
        visitor.admit();
        let (next, rest) = deadline("the rest being sent", join(next, waiting)).await;
        next.unwrap();
        rest.unwrap();
        numbers.finish().await.unwrap();
        assert_eq!(ended(&job).await, Outcome::Completed);
        assert_eq!(read::<u64>(&job, "out").await, (0..100).collect::<Vec<_>>());
    });
}

#[test]
fn stop_processes_what_was_accepted_and_refuses_the_rest() {
    let limits = Limits { port_items: 4, batch_items: 2, ..Limits::default() };
    each_environment_with(&limits, async |env| {
        let door = Door::new().await;
        let job = start(env, Throttled { door: door.way() }).await;
        let numbers: Input<u64> = job.input("numbers");
        numbers.send(0).await.unwrap();
        let visitor = door.arrival().await;
        let (sent, next) = fill(&job, &numbers).await;
        job.stop().await.unwrap();
        visitor.admit();
        assert_eq!(ended(&job).await, Outcome::Stopped);
        let closed = InputError::Closed { input: "numbers".to_owned() };
        let mut expected: Vec<u64> = (0..=sent as u64).collect();
        match deadline("the sender being told", next).await {
            Ok(()) => expected.push(sent as u64 + 1),
            Err(error) => assert_eq!((error.error(), error.clone().into_item()), (&closed, sent as u64 + 1)),
        }
        let refused = numbers.send(2000).await.unwrap_err();
        assert_eq!((refused.error(), numbers.finish().await.unwrap_err()), (&closed, closed.clone()));
        assert_eq!(sorted(read::<u64>(&job, "out").await), expected, "what was accepted arrives, and nothing else");
    });
}

#[test]
fn stop_of_a_job_whose_input_was_never_used_ends_it() {
    each_environment(async |env| {
        let job = start(env, Echoing {}).await;
        job.stop().await.unwrap();
        assert_eq!(ended(&job).await, Outcome::Stopped);
        assert!(read::<u64>(&job, "out").await.is_empty());
    });
}

#[test]
fn a_cancelled_job_refuses_its_senders() {
    each_environment(async |env| {
        let job = start(env, Echoing {}).await;
        let numbers: Input<u64> = job.input("numbers");
        numbers.send(1).await.unwrap();
        job.cancel().await.unwrap();
        assert!(matches!(ended(&job).await, Outcome::Cancelled { .. }));
        let error = numbers.send(2).await.unwrap_err().into_error();
        assert_eq!(error, InputError::Closed { input: "numbers".to_owned() });
        assert_eq!(error.to_string(), "input `numbers` is closed, because the job was stopped or has ended");
    });
}

#[test]
fn a_paused_job_takes_what_is_pushed_once_it_is_resumed() {
    each_environment(async |env| {
        let job = start(env, Echoing {}).await;
        let numbers: Input<u64> = job.input("numbers");
        numbers.send(1).await.unwrap();
        job.pause().await.unwrap();
        reached(&job, JobState::Paused).await;
        numbers.send_all(2..10).await.unwrap();
        numbers.finish().await.unwrap();
        assert_eq!(job.wait_timeout(std::time::Duration::ZERO).await.unwrap(), None);
        job.resume().await.unwrap();
        assert_eq!(ended(&job).await, Outcome::Completed);
        assert_eq!(read::<u64>(&job, "out").await, (1..10).collect::<Vec<_>>());
    });
}

#[test]
fn an_input_of_another_name_or_type_is_an_error_that_says_what_there_is() {
    each_environment(async |env| {
        let job = start(env, Echoing {}).await;
        let error = job.input::<u64>("words").send(1).await.unwrap_err().into_error();
        let existing = vec!["numbers".to_owned()];
        assert_eq!(error, InputError::NoSuchInput { input: "words".to_owned(), existing });
        assert_eq!(error.to_string(), "no input is named `words`; the job's inputs: `numbers`");
        let refused = job.input::<String>("numbers").send("one".to_owned()).await.unwrap_err();
        assert!(matches!(refused.error(), InputError::WrongType { .. }), "{refused:?}");
        assert_eq!(refused.into_item(), "one");
        crate::support::cancel(&job).await.unwrap();
    });
}

job!(Bulky { door: Doorway }, |job, flow| {
    let door = job.door.clone();
    let pieces = flow.from_channel::<Vec<u8>>("pieces").map_async(1, async move |_, piece: Vec<u8>| {
        if piece[0] == 0 {
            door.pass("the first").await;
        }
        Ok((piece[0], piece.len()))
    });
    pieces.collect("out");
});

#[test]
fn many_large_items_sent_at_once_are_more_than_is_sent_ahead_and_all_arrive() {
    let limits = Limits { port_items: 4, batch_items: 2, ..Limits::default() };
    each_environment_with(&limits, async |env| {
        let door = Door::new().await;
        let job = start(env, Bulky { door: door.way() }).await;
        let pieces: Input<Vec<u8>> = job.input("pieces");
        let sending = join_all((0..60u8).map(|n| pieces.send(vec![n; 100_000])));
        let admit = async { door.arrival_of("the first").await.admit() };
        let (sent, ()) = deadline("the pieces", join(sending, admit)).await;
        assert!(sent.iter().all(Result::is_ok));
        pieces.finish().await.unwrap();
        assert_eq!(ended(&job).await, Outcome::Completed);
        let arrived: Vec<(u8, usize)> = read(&job, "out").await;
        // Sends that wait at the same time have no order among themselves.
        assert!(sorted(arrived).into_iter().eq((0..60).map(|n| (n, 100_000))), "each once");
    });
}

#[test]
fn finish_refuses_what_waits_for_room_and_does_not_wait_for_it() {
    let limits = Limits { port_items: 4, batch_items: 2, ..Limits::default() };
    each_environment_with(&limits, async |env| {
        let door = Door::new().await;
        let job = start(env, Bulky { door: door.way() }).await;
        let pieces: Input<Vec<u8>> = job.input("pieces");
        pieces.send(vec![0; 100_000]).await.unwrap();
        let visitor = door.arrival_of("the first").await;
        let mut sending = Box::pin(join_all((1..60u8).map(|n| pieces.send(vec![n; 100_000]))));
        assert!(sending.as_mut().now_or_never().is_none());
        // The job holds the first one all the while.
        deadline("the end of the input", pieces.finish()).await.unwrap();
        let sent = deadline("the senders being told", sending).await;
        let taken = sent.iter().filter(|sent| sent.is_ok()).count();
        assert!(taken < 20, "{taken} were taken where 4 have room");
        assert!(sent.iter().flat_map(Result::as_ref).count() == taken);
        for refused in sent.iter().filter_map(|sent| sent.as_ref().err()) {
            assert_eq!(refused.error(), &InputError::Finished { input: "pieces".to_owned() });
        }
        visitor.admit();
        assert_eq!(ended(&job).await, Outcome::Completed);
        assert_eq!(read::<(u8, usize)>(&job, "out").await.len(), taken + 1, "what was taken, and nothing else");
    });
}

registered![Bulky, Echoing, Throttled];
