//! noq.

use std::process::ExitCode;

use bytes::Bytes;
use noq as library;
use whimbrel_bench_peers::Failure;

#[path = "../quinn_like.rs"]
mod quinn_like;

fn main() -> ExitCode {
    whimbrel_bench_peers::run("noq", quinn_like::program)
}

async fn next(stream: &mut library::RecvStream) -> Result<Option<Bytes>, Failure> {
    Ok(stream.read_chunk(usize::MAX).await?)
}
