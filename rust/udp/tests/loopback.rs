//! Sockets against the real kernel, over the loopback interface.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use whimbrel_udp::{BATCH, Epoll, Outgoing, Pin, ReceiveBuffers, Received, Socket, interface_index, steer};

const V4: &str = "127.0.0.1:0";
const V6: &str = "[::1]:0";

fn socket(bind: &str) -> Socket {
    Socket::unconnected(bind.parse().unwrap()).unwrap()
}

fn to(destination: SocketAddr, contents: &[u8]) -> Outgoing<'_> {
    Outgoing { contents, destination, segment: None, pin: None, ecn: 0 }
}

fn loopback() -> u32 {
    interface_index("lo").unwrap()
}

/// Waits for one batch; fails rather than hang.
fn receive(socket: &Socket, buffers: &mut ReceiveBuffers) -> usize {
    let (epoll, mut ready) = (Epoll::new().unwrap(), Vec::new());
    epoll.add(socket.as_raw_fd(), 1).unwrap();
    epoll.wait(Some(Duration::from_secs(5)), &mut ready).unwrap();
    assert_eq!(ready, [1], "nothing arrived");
    socket.receive(buffers).unwrap()
}

/// Waits for exactly one message.
fn receive_one<'a>(socket: &Socket, buffers: &'a mut ReceiveBuffers) -> Received<'a> {
    assert_eq!(receive(socket, buffers), 1);
    buffers.get(0)
}

fn numbered(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index / 100) as u8).collect()
}

#[test]
fn a_datagram_arrives_with_its_addresses_and_its_mark() {
    for (bind, ecn) in [(V4, 0), (V4, 1), (V4, 2), (V4, 3), (V6, 0), (V6, 1), (V6, 2), (V6, 3)] {
        let (sender, receiver) = (socket(bind), socket(bind));
        let destination = receiver.local_addr().unwrap();
        sender.send(&Outgoing { ecn, ..to(destination, b"hello") }).unwrap();
        let mut buffers = ReceiveBuffers::new();
        let received = receive_one(&receiver, &mut buffers);
        assert_eq!((received.data, received.segment), (&b"hello"[..], 5));
        assert_eq!(received.source, sender.local_addr().unwrap());
        assert_eq!(received.local, Some(destination.ip()));
        assert_eq!(received.interface, loopback());
        assert_eq!(received.ecn, ecn);
    }
}

#[test]
fn many_segments_travel_as_one_and_can_be_told_apart() {
    for bind in [V4, V6] {
        let (sender, receiver) = (socket(bind), socket(bind));
        let destination = receiver.local_addr().unwrap();
        let pin = Some(Pin { interface: loopback(), source: destination.ip() });
        let contents = numbered(9 * 1200 + 77);
        assert_eq!(sender.max_segments(), 64);
        sender.send(&Outgoing { segment: Some(1200), pin, ecn: 2, ..to(destination, &contents) }).unwrap();
        let mut buffers = ReceiveBuffers::new();
        let received = receive_one(&receiver, &mut buffers);
        assert_eq!((received.data, received.segment, received.ecn), (&contents[..], 1200, 2));
        assert_eq!(received.data.chunks(received.segment).last().unwrap().len(), 77);
    }
}

#[test]
fn a_receiver_that_joins_nothing_sees_the_segments() {
    let (sender, receiver) = (socket(V4), UdpSocket::bind(V4).unwrap());
    receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let contents = numbered(2500);
    sender.send(&Outgoing { segment: Some(1000), ..to(receiver.local_addr().unwrap(), &contents) }).unwrap();
    let mut buffer = [0; 2000];
    for expected in contents.chunks(1000) {
        let length = receiver.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], expected);
    }
}

#[test]
fn contents_of_one_segment_are_one_datagram() {
    let (sender, receiver) = (socket(V6), socket(V6));
    sender.send(&Outgoing { segment: Some(1200), ..to(receiver.local_addr().unwrap(), &[7; 1200]) }).unwrap();
    let mut buffers = ReceiveBuffers::new();
    let received = receive_one(&receiver, &mut buffers);
    assert_eq!((received.data, received.segment), (&[7; 1200][..], 1200));
}

#[test]
fn the_largest_send_fits_one_message() {
    let (sender, receiver) = (socket(V4), socket(V4));
    // With all its headers the kernel handles 64 KiB in one piece: 45 segments of this size, and no 65,507 bytes.
    let contents = numbered(45 * 1452);
    sender.send(&Outgoing { segment: Some(1452), ..to(receiver.local_addr().unwrap(), &contents) }).unwrap();
    let mut buffers = ReceiveBuffers::new();
    assert_eq!(receive_one(&receiver, &mut buffers).data, contents);
}

#[test]
fn a_refusal_to_cut_is_remembered_and_loses_nothing() {
    let (sender, receiver) = (socket(V4), socket(V4));
    let one = 1_i32;
    // Without checksums the kernel refuses to cut, whatever the interface can do.
    // SAFETY: the value is an int that outlives the call.
    let result = unsafe {
        let (value, length) = (std::ptr::from_ref(&one).cast(), size_of::<i32>() as libc::socklen_t);
        libc::setsockopt(sender.as_raw_fd(), libc::SOL_SOCKET, libc::SO_NO_CHECK, value, length)
    };
    assert_eq!(result, 0);
    let mut buffers = ReceiveBuffers::new();
    for _ in 0..2 {
        let outgoing = Outgoing { segment: Some(1000), ..to(receiver.local_addr().unwrap(), &[5; 2500]) };
        sender.send(&outgoing).unwrap();
        assert_eq!(sender.max_segments(), 1);
        assert_eq!(receive(&receiver, &mut buffers), 3);
        let lengths: Vec<usize> = buffers.iter().map(|received| received.data.len()).collect();
        assert_eq!(lengths, [1000, 1000, 500]);
    }
}

#[test]
fn a_source_that_is_gone_does_not_end_segmentation() {
    // IPv6 says EINVAL, as the kernel may when it cannot cut; IPv4 does on some ways.
    for (bind, gone) in [(V4, "192.0.2.1"), (V6, "2001:db8::1")] {
        let sender = Socket::wildcard(bind.parse().unwrap()).unwrap();
        let pin = Some(Pin { interface: loopback(), source: gone.parse().unwrap() });
        let destination = sender.local_addr().unwrap();
        let error = sender.send(&Outgoing { segment: Some(1000), pin, ..to(destination, &[0; 2500]) }).unwrap_err();
        assert!(matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENETUNREACH)), "{error}");
        assert_eq!(sender.max_segments(), 64);
        sender.send(&to(destination, b"still usable")).unwrap();
    }
}

#[test]
fn what_is_too_large_is_an_error() {
    for bind in [V4, V6] {
        let sender = socket(bind);
        let contents = vec![0; 65_536];
        let plain = to(sender.local_addr().unwrap(), &contents);
        for segment in [None, Some(32_768)] {
            let error = sender.send(&Outgoing { segment, ..plain }).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
        }
        for segment in [0, 1000] {
            let error = sender.send(&Outgoing { segment: Some(segment), ..plain }).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
        }
        assert_eq!(sender.max_segments(), 64);
    }
}

#[test]
fn a_pin_chooses_the_source() {
    let (sender, receiver) = (socket("0.0.0.0:0"), socket(V4));
    let destination = receiver.local_addr().unwrap();
    let mut buffers = ReceiveBuffers::new();
    for source in ["127.0.0.2", "127.0.0.3"] {
        let source: IpAddr = source.parse().unwrap();
        let pin = Some(Pin { interface: loopback(), source });
        sender.send(&Outgoing { pin, ..to(destination, b"pinned") }).unwrap();
        let port = sender.local_addr().unwrap().port();
        assert_eq!(receive_one(&receiver, &mut buffers).source, SocketAddr::new(source, port));
    }
}

#[test]
fn a_pin_that_cannot_be_kept_is_an_error_and_the_socket_lives_on() {
    for bind in [V4, V6] {
        let (sender, receiver) = (socket(bind), socket(bind));
        let destination = receiver.local_addr().unwrap();
        let other = if bind == V4 { "::1" } else { "127.0.0.1" };
        for pin in [
            Pin { interface: i32::MAX as u32, source: destination.ip() },
            Pin { interface: loopback(), source: other.parse().unwrap() },
        ] {
            sender.send(&Outgoing { pin: Some(pin), ..to(destination, b"lost") }).unwrap_err();
        }
        sender.send(&to(destination, b"found")).unwrap();
        assert_eq!(receive_one(&receiver, &mut ReceiveBuffers::new()).data, b"found");
    }
}

#[test]
fn an_unreachable_destination_is_an_error_and_the_socket_lives_on() {
    let sender = socket("0.0.0.0:0");
    let error = sender.send(&to("255.255.255.255:9".parse().unwrap(), b"to all")).unwrap_err();
    assert!(matches!(error.raw_os_error(), Some(libc::EACCES | libc::ENETUNREACH)), "{error}");
    let receiver = socket(V4);
    sender.send(&to(receiver.local_addr().unwrap(), b"to one")).unwrap();
    assert_eq!(receive_one(&receiver, &mut ReceiveBuffers::new()).data, b"to one");
}

#[test]
fn a_wildcard_socket_knows_the_address_it_was_reached_on_and_answers_from_there() {
    for (any, reached) in [("0.0.0.0:0", "127.0.0.5"), ("[::]:0", "::1")] {
        let server = Socket::wildcard(any.parse().unwrap()).unwrap();
        let at = SocketAddr::new(reached.parse().unwrap(), server.local_addr().unwrap().port());
        let client = Socket::connected(at, None).unwrap();
        client.send(&to(at, b"ping")).unwrap();
        let mut buffers = ReceiveBuffers::new();
        let received = receive_one(&server, &mut buffers);
        assert_eq!(received.local, Some(at.ip()));
        let pin = Some(Pin { interface: received.interface, source: at.ip() });
        server.send(&Outgoing { pin, ..to(received.source, b"pong") }).unwrap();
        assert_eq!(receive_one(&client, &mut buffers).data, b"pong"); // Connected: from anywhere else, dropped.
    }
}

#[test]
fn a_port_in_use_is_an_error_but_each_family_has_its_own() {
    let server = Socket::wildcard("[::]:0".parse().unwrap()).unwrap();
    let address = server.local_addr().unwrap();
    assert_eq!(Socket::wildcard(address).unwrap_err().kind(), ErrorKind::AddrInUse);
    if let Err(error) = Socket::wildcard(SocketAddr::new("0.0.0.0".parse().unwrap(), address.port())) {
        panic!("the IPv6 socket took the port of IPv4: {error}");
    }
}

#[test]
fn a_connected_socket_has_its_own_destination_and_source() {
    let receiver = socket(V4);
    let peer = receiver.local_addr().unwrap();
    let source: IpAddr = "127.0.0.9".parse().unwrap();
    let sender = Socket::connected(peer, Some(Pin { interface: loopback(), source })).unwrap();
    assert_eq!(sender.local_addr().unwrap().ip(), source);
    let elsewhere = to("192.0.2.1:9".parse().unwrap(), &[3; 3000]);
    let pin = Some(Pin { interface: 0, source: "192.0.2.2".parse().unwrap() });
    sender.send(&Outgoing { pin, segment: Some(1000), ecn: 1, ..elsewhere }).unwrap();
    let mut buffers = ReceiveBuffers::new();
    let received = receive_one(&receiver, &mut buffers);
    assert_eq!((received.source, received.segment, received.ecn), (sender.local_addr().unwrap(), 1000, 1));
}

#[test]
fn a_refusal_reaches_a_connected_socket_once() {
    for bind in [V4, V6] {
        let closed = socket(bind).local_addr().unwrap(); // And the socket is gone.
        let sender = Socket::connected(closed, None).unwrap();
        sender.send(&to(closed, b"anyone?")).unwrap();
        let mut buffers = ReceiveBuffers::new();
        assert_eq!(sender.receive(&mut buffers).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        assert_eq!(sender.receive(&mut buffers).unwrap_err().kind(), ErrorKind::WouldBlock);
        sender.send(&to(closed, b"usable")).unwrap();
    }
}

#[test]
fn one_call_takes_in_a_batch_and_the_next_one_the_rest() {
    let (sender, receiver) = (socket(V6), socket(V6));
    for number in 0..BATCH as u8 + 3 {
        sender.send(&to(receiver.local_addr().unwrap(), &[number; 100])).unwrap();
    }
    let mut buffers = ReceiveBuffers::new();
    let mut numbers = Vec::new();
    for expected in [BATCH, 3] {
        assert_eq!(receiver.receive(&mut buffers).unwrap(), expected);
        assert_eq!(buffers.iter().len(), expected);
        numbers.extend(buffers.iter().map(|received| received.data[0]));
    }
    assert!(numbers.iter().copied().eq(0..BATCH as u8 + 3));
    assert_eq!(receiver.receive(&mut buffers).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert!(buffers.is_empty());
}

#[test]
fn empty_datagrams_are_passed_over() {
    let (sender, receiver) = (socket(V4), socket(V4));
    let destination = receiver.local_addr().unwrap();
    let mut buffers = ReceiveBuffers::new();
    sender.send(&to(destination, b"")).unwrap();
    assert_eq!(receive(&receiver, &mut buffers), 0);
    sender.send(&to(destination, b"")).unwrap();
    sender.send(&to(destination, b"full")).unwrap();
    assert_eq!(receive_one(&receiver, &mut buffers).data, b"full");
}

#[test]
fn buffers_forget_the_marks_of_the_batch_before() {
    let (sender, receiver) = (socket(V4), socket(V4));
    let destination = receiver.local_addr().unwrap();
    let mut buffers = ReceiveBuffers::new();
    sender.send(&Outgoing { segment: Some(10), ecn: 3, ..to(destination, &[1; 95]) }).unwrap();
    assert_eq!(receive_one(&receiver, &mut buffers).segment, 10);
    sender.send(&to(destination, &[1; 95])).unwrap();
    let received = receive_one(&receiver, &mut buffers);
    assert_eq!((received.segment, received.ecn), (95, 0));
}

#[test]
fn a_client_may_have_a_socket_of_its_own_on_the_port_of_the_server() {
    for bind in [V4, V6] {
        let (server, client, stranger) = (Socket::wildcard(bind.parse().unwrap()).unwrap(), socket(bind), socket(bind));
        let (address, peer) = (server.local_addr().unwrap(), client.local_addr().unwrap());
        assert_eq!(Socket::accepted(address, peer).unwrap_err().kind(), ErrorKind::AddrInUse);
        server.share_port().unwrap();
        let own = Socket::accepted(address, peer).unwrap();
        client.send(&to(address, b"mine")).unwrap();
        stranger.send(&to(address, b"a stranger's")).unwrap();
        let mut buffers = ReceiveBuffers::new();
        assert_eq!(receive_one(&own, &mut buffers).data, b"mine");
        assert_eq!(receive_one(&server, &mut buffers).data, b"a stranger's");
        own.send(&to(peer, b"back")).unwrap();
        let answer = receive_one(&client, &mut buffers);
        assert_eq!((answer.data, answer.source), (&b"back"[..], address));
    }
}

#[test]
fn a_port_that_is_shared_is_in_use_all_the_same() {
    let server = Socket::wildcard(V4.parse().unwrap()).unwrap();
    server.share_port().unwrap();
    let again = Socket::wildcard(server.local_addr().unwrap());
    assert_eq!(again.unwrap_err().kind(), ErrorKind::AddrInUse);
}

#[test]
fn a_program_chooses_among_sockets_of_one_port_wherever_a_datagram_comes_from() {
    const LOAD_BYTE: u16 = 0x30;
    const RETURN_A: u16 = 0x16;
    for bind in [V4, V6] {
        let (address, group) = Socket::group(bind.parse().unwrap(), 3).unwrap();
        // The first byte of the payload is the place of the socket.
        steer(group[0].as_raw_fd(), &[(LOAD_BYTE, 0, 0, 0), (RETURN_A, 0, 0, 0)]).unwrap();
        let adopted: Vec<_> = group.iter().map(|owned| Socket::adopted(owned.as_raw_fd()).unwrap()).collect();
        let mut buffers = ReceiveBuffers::new();
        for _ in 0..10 {
            let sender = socket(bind);
            for (place, receiver) in (0..).zip(&adopted) {
                sender.send(&to(address, &[place, 9])).unwrap();
                let received = receive_one(receiver, &mut buffers);
                assert_eq!((received.data, received.source), (&[place, 9][..], sender.local_addr().unwrap()));
            }
        }
        // What has come waits for whoever adopts the socket next.
        let sender = socket(bind);
        sender.send(&to(address, &[1, 7])).unwrap();
        drop(adopted);
        let next = Socket::adopted(group[1].as_raw_fd()).unwrap();
        assert_eq!(receive_one(&next, &mut buffers).data, [1, 7]);
        // Nobody else gets in.
        for taken in [Socket::group(address, 2).err(), Socket::wildcard(address).err()] {
            assert_eq!(taken.unwrap().kind(), ErrorKind::AddrInUse);
        }
    }
}

#[test]
fn what_is_no_socket_cannot_be_adopted_or_steered() {
    assert!(Socket::adopted(-1).is_err());
    assert!(Socket::adopted(1 << 20).is_err());
    let alone = socket(V4);
    assert!(steer(alone.as_raw_fd(), &[]).is_err());
}
