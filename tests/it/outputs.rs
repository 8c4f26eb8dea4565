//! Named outputs: whole or nothing, or handed out as they come.

use std::future::IntoFuture;

use futures::{FutureExt, future::join_all};
use proscenium::{FailureCause, JobHandle, Limits, Outcome, Output, OutputError, ParallelRange, TaskError};

use crate::support::{
    Door, Doorway, completed, deadline, each_environment, each_environment_with, ended, job, read, registered, sorted,
    start,
};

job!(Gated { items: u64, door: Doorway }, |job, flow| {
    let (last, door) = (job.items - 1, job.door.clone());
    let numbers = flow.from_batch(0..job.items).map_async(1, async move |_, n| {
        if n == last {
            door.pass(n).await;
        }
        Ok(n)
    });
    numbers.collect("out");
});

#[test]
fn a_collected_output_is_whole_and_can_be_read_again_and_again() {
    each_environment(async |env| {
        let door = Door::new().await;
        let job = start(env, Gated { items: 5000, door: door.way() }).await;
        let visitor = door.arrival().await;
        // A read before the end waits.
        let mut early = std::pin::pin!(job.output::<u64>("out").into_future());
        assert!(early.as_mut().now_or_never().is_none());
        let mut item = job.output::<u64>("out");
        assert!(item.next().now_or_never().is_none());
        assert_eq!(job.status().await.unwrap().outcome, None);
        visitor.admit();
        let expected: Vec<u64> = (0..5000).collect();
        assert_eq!(deadline("the output", early).await.unwrap(), expected);
        assert_eq!(deadline("an item", item.next()).await.unwrap(), Some(0));
        assert_eq!(ended(&job).await, Outcome::Completed);
        for _ in 0..2 {
            assert_eq!(read::<u64>(&job, "out").await, expected);
        }
        assert_eq!(deadline("the rest", item).await.unwrap(), expected[1..], "awaiting gives what `next` left");
    });
}

job!(Numbers { items: u64 }, |job, flow| {
    flow.from_batch(ParallelRange::new(0..job.items)).collect("out");
});

#[test]
fn an_output_is_read_item_by_item_as_a_stream_and_by_many_at_once() {
    each_environment(async |env| {
        let job = completed(env, Numbers { items: 10_000 }).await;
        let expected: Vec<u64> = (0..10_000).collect();
        let whole = join_all((0..4).map(|_| job.output::<u64>("out").into_future()));
        for out in deadline("the outputs", whole).await {
            assert_eq!(sorted(out.unwrap()), expected);
        }
        let stream: Vec<u64> = {
            use futures::StreamExt;
            deadline("the stream", job.output::<u64>("out").map(Result::unwrap).collect()).await
        };
        assert_eq!(sorted(stream), expected);
        let mut output: Output<u64> = job.output("out");
        let mut items = Vec::new();
        while let Some(item) = deadline("an item", output.next()).await.unwrap() {
            items.push(item);
        }
        assert_eq!(sorted(items), expected);
        assert_eq!(output.next().await.unwrap(), None, "the end stays the end");
        assert_eq!(output.name(), "out");
    });
}

#[test]
fn an_output_that_outgrows_its_memory_goes_to_disk_and_reads_the_same() {
    let limits = Limits { output_memory_bytes: 1000, ..Limits::default() };
    each_environment_with(&limits, async |env| {
        let job = completed(env, Numbers { items: 200_000 }).await;
        for _ in 0..2 {
            assert_eq!(sorted(read::<u64>(&job, "out").await), (0..200_000).collect::<Vec<_>>());
        }
    });
}

#[test]
fn an_output_that_outgrows_its_limit_fails_the_job() {
    let limits = Limits { output_bytes_max: 10_000, ..Limits::default() };
    each_environment_with(&limits, async |env| {
        let job = start(env, Numbers { items: 200_000 }).await;
        let outcome = ended(&job).await;
        let cause = FailureCause::OutputTooLarge { output: "out".to_owned(), limit_bytes: 10_000 };
        assert_eq!(outcome, Outcome::Failed(cause));
        assert_eq!(outcome.to_string(), "failed: output `out` outgrew its limit of 10000 bytes");
        assert!(matches!(job.output::<u64>("out").await, Err(OutputError::Incomplete { .. })));
    });
}

job!(FailsLate { items: u64 }, |job, flow| {
    let last = job.items - 1;
    let numbers = flow.from_batch(0..job.items);
    numbers.try_map(move |n| if n == last { Err(TaskError::new("too late")) } else { Ok(n) }).collect("out");
});

#[test]
fn an_output_of_a_job_that_failed_or_was_cancelled_is_never_given_as_whole() {
    each_environment(async |env| {
        let job = start(env, FailsLate { items: 5000 }).await;
        let failed = ended(&job).await;
        assert!(failed.is_failed());
        let error = job.output::<u64>("out").await.unwrap_err();
        let OutputError::Incomplete { output, why } = &error else { panic!("{error:?}") };
        assert_eq!(output, "out");
        assert!(why.contains("operator `try_map` (instance 0) failed at item 5000: too late"), "{why}");
        assert!(job.output::<u64>("out").next().await.is_err(), "not even the first item");

        let door = Door::new().await;
        let job = start(env, Gated { items: 5000, door: door.way() }).await;
        let visitor = door.arrival().await;
        let waiting = tokio::spawn(job.output::<u64>("out").into_future());
        job.cancel().await.unwrap();
        assert!(matches!(ended(&job).await, Outcome::Cancelled { .. }));
        let error = deadline("the reader being told", waiting).await.unwrap().unwrap_err();
        assert!(matches!(error, OutputError::Incomplete { .. }), "{error:?}");
        assert_eq!(job.output::<u64>("out").await.unwrap_err(), error);
        drop(visitor);
    });
}

job!(TwoOutputs {}, |job, flow| {
    flow.from_batch(0..3u64).map(|n| (n.to_string(), n)).collect("pairs");
    flow.from_batch(0..3u64).collect("numbers");
});

#[test]
fn an_output_read_by_the_wrong_name_or_type_is_an_error_that_says_what_there_is() {
    each_environment(async |env| {
        let job = completed(env, TwoOutputs {}).await;
        let error = job.output::<u64>("nothing").await.unwrap_err();
        let existing = vec!["pairs".to_owned(), "numbers".to_owned()];
        assert_eq!(error, OutputError::NoSuchOutput { output: "nothing".to_owned(), existing });
        assert_eq!(error.to_string(), "no output is named `nothing`; the job's outputs: `pairs`, `numbers`");

        let error = job.output::<(String, u32)>("pairs").await.unwrap_err();
        let OutputError::WrongType { output, expected, found, difference } = &error else { panic!("{error:?}") };
        assert_eq!(output, "pairs");
        assert!(expected.contains("u32") && found.contains("u64"), "{error}");
        assert!(difference.contains("u32") && difference.contains("u64"), "{error}");
        let error = job.output::<String>("numbers").next().await.unwrap_err();
        assert!(matches!(error, OutputError::WrongType { .. }), "{error:?}");
        // The same structure under another name will do.
        assert_eq!(read::<(String, u64)>(&job, "pairs").await.len(), 3);
    });
}

job!(Streaming { items: u64 }, |job, flow| {
    flow.from_batch(0..job.items).stream_out("live");
});

/// Asks until the job says that it waits for a reader.
async fn unread(job: &JobHandle) -> String {
    deadline("the job blocking", async {
        loop {
            let explanation = job.explain().await.unwrap().to_string();
            if explanation.contains("has no reader") {
                return explanation;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

#[test]
fn a_streamed_output_that_nobody_reads_blocks_the_job_and_explain_names_it() {
    let limits = Limits { port_items: 100, batch_items: 10, ..Limits::default() };
    each_environment_with(&limits, async |env| {
        let items = 10_000;
        let job = start(env, Streaming { items }).await;
        let explanation = unread(&job).await;
        let expected = "output `live` has no reader, so task `from_batch -> stream_out` (instance 0) blocks";
        assert_eq!(explanation, format!("running\n  {expected}"));
        let taken = job.status().await.unwrap().tasks[0].counters.items_in;
        assert!(taken <= 200, "{taken} items were taken where 100 have room");
        let mut output = job.output::<u64>("live");
        for n in 0..items {
            assert_eq!(deadline("an item", output.next()).await.unwrap(), Some(n));
        }
        assert_eq!(deadline("the end", output.next()).await.unwrap(), None);
        assert_eq!(ended(&job).await, Outcome::Completed);
    });
}

#[test]
fn a_streamed_output_has_one_reader_at_a_time_and_the_next_goes_on_where_it_stopped() {
    let limits = Limits { port_items: 100, batch_items: 10, ..Limits::default() };
    each_environment_with(&limits, async |env| {
        let job = start(env, Streaming { items: 1000 }).await;
        let mut first = job.output::<u64>("live");
        for n in 0..55 {
            assert_eq!(deadline("an item", first.next()).await.unwrap(), Some(n));
        }
        let taken = job.output::<u64>("live").next().await.unwrap_err();
        assert_eq!(taken, OutputError::ReaderTaken { output: "live".to_owned() });
        drop(first);
        let rest = deadline("the rest", job.output::<u64>("live")).await.unwrap();
        assert_eq!(rest, (55..1000).collect::<Vec<_>>());
        assert_eq!(ended(&job).await, Outcome::Completed);
    });
}

#[test]
fn an_unread_streamed_output_does_not_keep_a_job_from_being_cancelled() {
    let limits = Limits { port_items: 100, batch_items: 10, ..Limits::default() };
    each_environment_with(&limits, async |env| {
        let job = start(env, Streaming { items: 10_000 }).await;
        unread(&job).await;
        job.cancel().await.unwrap();
        assert!(matches!(ended(&job).await, Outcome::Cancelled { .. }));
        assert_eq!(job.status().await.unwrap().warnings, [], "nothing had to be given up");
        let mut output = job.output::<u64>("live");
        let error = loop {
            match deadline("an item", output.next()).await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("an output that was cut short ended as if it were whole"),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, OutputError::Incomplete { .. }), "{error:?}");
    });
}

registered![Gated, Numbers, FailsLate, TwoOutputs, Streaming];
