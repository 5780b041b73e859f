//! One direction between a socket and anything else, through a buffer.

use std::cell::Cell;
use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Activity, Broken, Turn, end_direction, was_reset};

/// What fits one TLS record.
const BUFFER_BYTES: usize = 16 << 10;

/// Carries bytes until `source` ends, then ends the direction to `sink`.
pub(super) async fn carry_to<W>(
    source: &TcpStream,
    sink: W,
    moved: &Cell<u64>,
    activity: &Activity,
) -> Result<(), Broken>
where
    W: AsyncWrite,
{
    let mut sink = std::pin::pin!(sink);
    let mut turn = Turn::start();
    loop {
        source.readable().await.map_err(Broken::Source)?;
        let mut buffer = Vec::with_capacity(BUFFER_BYTES);
        loop {
            buffer.clear();
            match source.try_read_buf(&mut buffer) {
                Ok(0) => return sink.shutdown().await.map_err(Broken::Sink),
                Ok(bytes) => {
                    tokio::select! {
                        written = write_through(sink.as_mut(), &buffer) => written.map_err(Broken::Sink)?,
                        error = was_reset(source) => return Err(Broken::Source(error)),
                    }
                    activity.delivered(moved, bytes);
                    turn.spend(bytes).await;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(Broken::Source(error)),
            }
        }
    }
}

/// Carries bytes until `source` ends, then ends the direction to `sink`.
pub(super) async fn carry_from<R>(
    source: R,
    sink: &TcpStream,
    moved: &Cell<u64>,
    activity: &Activity,
) -> Result<(), Broken>
where
    R: AsyncRead,
{
    let mut source = std::pin::pin!(source);
    let mut turn = Turn::start();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = read(source.as_mut(), &mut buffer).await?;
        if read == 0 {
            return end_direction(sink);
        }
        let mut left = &buffer[..read];
        while !left.is_empty() {
            match sink.try_write(left) {
                Ok(0) => return Err(Broken::Sink(io::ErrorKind::WriteZero.into())),
                Ok(bytes) => {
                    activity.delivered(moved, bytes);
                    turn.spend(bytes).await;
                    left = &left[bytes..];
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    sink.writable().await.map_err(Broken::Sink)?;
                }
                Err(error) => return Err(Broken::Sink(error)),
            }
        }
    }
}

/// Carries bytes until `source` ends, then ends the direction to `sink`.
pub(super) async fn carry<R, W>(
    source: R,
    sink: W,
    moved: &Cell<u64>,
    activity: &Activity,
) -> Result<(), Broken>
where
    R: AsyncRead,
    W: AsyncWrite,
{
    let (mut source, mut sink) = (std::pin::pin!(source), std::pin::pin!(sink));
    let mut turn = Turn::start();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = read(source.as_mut(), &mut buffer).await?;
        if read == 0 {
            return sink.shutdown().await.map_err(Broken::Sink);
        }
        write_through(sink.as_mut(), &buffer[..read]).await.map_err(Broken::Sink)?;
        activity.delivered(moved, read);
        turn.spend(read).await;
    }
}

/// Zero at the end.
async fn read<R>(mut source: std::pin::Pin<&mut R>, buffer: &mut [u8]) -> Result<usize, Broken>
where
    R: AsyncRead,
{
    match source.read(buffer).await {
        // Many servers end TLS without close_notify. Nothing of what came is lost by it; whether that was
        // all is for the application to know, as it is with Envoy.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
        read => read.map_err(Broken::Source),
    }
}

async fn write_through<W>(mut sink: std::pin::Pin<&mut W>, bytes: &[u8]) -> io::Result<()>
where
    W: AsyncWrite,
{
    sink.write_all(bytes).await?;
    sink.flush().await // TLS keeps records back until then
}
