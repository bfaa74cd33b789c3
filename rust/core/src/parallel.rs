//! Work on several threads.

use crate::cancel::Cancel;
use crate::error::Result;
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// More threads than this are never started.
const MAX_THREADS: usize = 1024;

/// The calling thread asks this often whether to stop while it waits.
const PATIENCE: Duration = Duration::from_millis(20);

/// How many threads work where so many are asked for, or none in particular.
pub(crate) fn n_threads(asked: Option<NonZero<usize>>) -> usize {
    asked
        .or_else(|| thread::available_parallelism().ok())
        .map_or(1, NonZero::get)
        .min(MAX_THREADS)
}

/// Does all tasks on as many threads as there are workers, and returns what they give, in order; tasks
/// that have not begun when the search is cancelled are left out.
pub(crate) fn run_tasks<W: Send, T: Send, R: Send>(
    workers: &mut [W],
    tasks: Vec<T>,
    cancel: Cancel<'_>,
    work: impl Fn(&mut W, T) -> R + Sync,
) -> Vec<R> {
    let n_tasks = tasks.len();
    let tasks = Mutex::new(tasks.into_iter().enumerate());
    let done = Mutex::new(Vec::with_capacity(n_tasks));
    let go = |worker: &mut W| {
        loop {
            let task = tasks.lock().unwrap_or_else(PoisonError::into_inner).next();
            match task {
                Some((at, task)) if !cancel.is_set() => {
                    let result = work(worker, task);
                    let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                    done.push((at, result));
                }
                _ => return,
            }
        }
    };
    if let Some((first, others)) = workers.split_first_mut() {
        // Threads of its own, not a pool: they cost some ten microseconds, and nothing outlives a
        // search, so that a process may fork at any other time.
        let (working, at_work) = channel::<()>();
        thread::scope(|scope| {
            for worker in others.iter_mut().take(n_tasks.saturating_sub(1)) {
                let (go, working) = (&go, working.clone());
                let help = move || {
                    go(worker);
                    drop(working);
                };
                // Where no more threads are to be had, those that are there do the work.
                if thread::Builder::new().spawn_scoped(scope, help).is_err() {
                    break;
                }
            }
            drop(working);
            go(first);
            // The calling thread goes on asking whether to stop while it waits for the others: it may be
            // the only one that learns of it (see [`Cancel::when`]).
            while let Err(RecvTimeoutError::Timeout) = at_work.recv_timeout(PATIENCE) {
                let _ = cancel.is_set();
            }
        });
    }
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_unstable_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

/// Does `work` for each item, on several threads, until one fails.
pub(crate) fn for_each<T: Send>(
    items: Vec<T>,
    threads: Option<NonZero<usize>>,
    cancel: Cancel<'_>,
    work: impl Fn(T) -> Result<()> + Sync,
) -> Result<()> {
    let failed = AtomicBool::new(false);
    let n_workers = n_threads(threads).min(items.len());
    let done = run_tasks(&mut vec![(); n_workers], items, cancel, |(), item| {
        if failed.load(Ordering::Relaxed) {
            return Ok(());
        }
        let result = work(item);
        failed.fetch_or(result.is_err(), Ordering::Relaxed);
        result
    });
    cancel.check()?;
    done.into_iter().collect()
}
