//! Sends the reply of ExecSync in the pieces that the output was read into. An encoder would copy all of them into one
//! buffer and hold both at once. Here each piece is freed, and no longer counts in the budget of replies, as soon as it
//! is sent.
//!
//! The method returns a message without the output, which it leaves in the response's extensions; [`with_output`]
//! appends it to the message. The fields of a protobuf message may come in any order.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use hyper::body::{Body as HttpBody, Frame};
use prost::encoding::{WireType, encode_key, encode_varint};
use tonic::body::Body;
use tonic::{Response, Status};

use crate::api::v1::ExecSyncResponse;
use crate::runtime::ExecSyncReply;

/// Field numbers of `stdout` and `stderr` in ExecSyncResponse.
const FIELDS: [u32; 2] = [1, 2];
/// gRPC's bytes before a message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// stdout and stderr, which were left out of a message.
#[derive(Clone, Debug)]
struct Output([Vec<Bytes>; 2]);

/// The message that the method returns, with the output in the extensions.
pub(super) fn response(reply: Response<ExecSyncReply>) -> Response<ExecSyncResponse> {
    let reply = reply.into_inner();
    let message = ExecSyncResponse { exit_code: reply.exit_code, ..ExecSyncResponse::default() };
    let mut response = Response::new(message);
    response.extensions_mut().insert(Output([reply.stdout, reply.stderr]));
    response
}

/// Appends the output in the extensions to the method's message. Other responses are not changed.
pub fn with_output(mut response: http::Response<Body>) -> http::Response<Body> {
    match response.extensions_mut().remove::<Output>() {
        Some(output) => {
            response.map(|inner| Body::new(Extended { inner, output: Some(output), rest: VecDeque::new() }))
        }
        None => response,
    }
}

/// The body of a response: the message, the fields that were left out of it, and the trailers.
struct Extended {
    inner: Body,
    /// `None` after the message has been read from `inner`.
    output: Option<Output>,
    /// Pieces still to be sent before the trailers.
    rest: VecDeque<Bytes>,
}

impl Extended {
    /// Adds the output to the length of the message, and queues it in `rest`.
    fn extend(&mut self, message: Bytes, output: Output) -> Bytes {
        let mut first = BytesMut::with_capacity(message.len() + 16);
        first.put(message);
        for (field, pieces) in FIELDS.into_iter().zip(output.0) {
            let length: usize = pieces.iter().map(Bytes::len).sum();
            if length > 0 {
                let mut head = BytesMut::with_capacity(16);
                encode_key(field, WireType::LengthDelimited, &mut head);
                encode_varint(length as u64, &mut head);
                self.rest.push_back(head.freeze());
                self.rest.extend(pieces);
            }
        }
        let length = first.len() - PREFIX + self.rest.iter().map(Bytes::len).sum::<usize>();
        // The collector keeps the output below the limit of 16 MiB.
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        first[1..PREFIX].copy_from_slice(&length.to_be_bytes());
        first.freeze()
    }
}

impl HttpBody for Extended {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(piece) = self.rest.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        let frame = std::task::ready!(Pin::new(&mut self.inner).poll_frame(context));
        let Some(Ok(frame)) = frame else { return Poll::Ready(frame) };
        let extended = match frame.into_data() {
            Ok(mut data) => match self.output.take() {
                Some(output) => Frame::data(self.extend(data.copy_to_bytes(data.remaining()), output)),
                None => Frame::data(data),
            },
            Err(frame) => frame,
        };
        Poll::Ready(Some(Ok(extended)))
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    /// The body that tonic makes of the method's response.
    struct Encoded(Option<Bytes>);

    impl HttpBody for Encoded {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
        }
    }

    /// The frames that a client receives for a reply.
    async fn frames(reply: ExecSyncReply) -> Vec<Bytes> {
        let (_, message, mut extensions) = response(Response::new(reply)).into_parts();
        let mut bytes = vec![0; PREFIX];
        message.encode(&mut bytes).unwrap();
        let length = u32::try_from(bytes.len() - PREFIX).unwrap();
        bytes[1..PREFIX].copy_from_slice(&length.to_be_bytes());
        let mut whole = http::Response::new(Body::new(Encoded(Some(bytes.into()))));
        if let Some(output) = extensions.remove::<Output>() {
            whole.extensions_mut().insert(output);
        }
        let mut body = with_output(whole).into_body();
        let mut all = Vec::new();
        while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
            all.push(frame.unwrap().into_data().unwrap());
        }
        all
    }

    #[tokio::test]
    async fn a_client_reads_what_an_encoder_would_have_written() {
        let pieces = |text: &[&'static str]| text.iter().map(|text| Bytes::from_static(text.as_bytes())).collect();
        let long: Vec<Bytes> = std::iter::repeat_n(Bytes::from(vec![b'x'; 65536]), 40).collect();
        for (stdout, stderr, exit_code) in [
            (pieces(&["one ", "two"]), pieces(&["err"]), 9),
            (pieces(&[]), pieces(&["err"]), 0),
            (pieces(&[]), pieces(&[]), -1),
            (long, pieces(&[]), 300),
        ] {
            let expected = ExecSyncResponse { stdout: stdout.concat(), stderr: stderr.concat(), exit_code };
            let sent = frames(ExecSyncReply { stdout, stderr, exit_code }).await.concat();
            let length = usize::try_from(u32::from_be_bytes(sent[1..PREFIX].try_into().unwrap())).unwrap();
            assert_eq!((sent[0], length), (0, sent.len() - PREFIX));
            assert_eq!(ExecSyncResponse::decode(&sent[PREFIX..]).unwrap(), expected);
        }
    }

    #[tokio::test]
    async fn pieces_are_not_copied() {
        let piece = Bytes::from(vec![b'x'; 1000]);
        let reply = ExecSyncReply { stdout: vec![piece.clone()], stderr: Vec::new(), exit_code: 0 };
        assert!(frames(reply).await.iter().any(|frame| frame.as_ptr() == piece.as_ptr()));
    }
}
