"""Attempts to reach the host or the world by sockets."""

import errno
import os
import socket
import struct

from raw import attempt

RTM_NEWLINK, RTM_NEWADDR, RTM_NEWROUTE = 16, 20, 24
REQUEST, ACKNOWLEDGE, CREATE = 1, 4, 0x400


def connected(family, address, kind=socket.SOCK_STREAM):
    with socket.socket(family, kind) as client:
        client.settimeout(5)
        client.connect(address)
        return 'connected'


# Node.js listens on the name with zeros up to the full length of an address.
attempt('network: an abstract socket of the host')(
    lambda host: connected(socket.AF_UNIX, ('\0' + host['abstract']).ljust(108, '\0'))
)
attempt('network: a port on the host’s loopback')(lambda host: connected(socket.AF_INET, ('127.0.0.1', host['port'])))
attempt('network: the same over IPv6')(lambda host: connected(socket.AF_INET6, ('::ffff:127.0.0.1', host['port'])))
attempt('network: an address of the host')(lambda host: connected(socket.AF_INET, (host['address'], host['port'])))
attempt('network: a metadata service')(lambda host: connected(socket.AF_INET, ('169.254.169.254', 80)))
attempt('network: the world')(lambda host: connected(socket.AF_INET, ('192.0.2.1', 80)))
attempt('network: the world over IPv6')(lambda host: connected(socket.AF_INET6, ('2001:db8::1', 80)))
attempt('network: the world by datagram')(lambda host: connected(socket.AF_INET, ('192.0.2.1', 53), socket.SOCK_DGRAM))


@attempt('network: a socket file of the host')
def socket_file(host):
    return connected(socket.AF_UNIX, host['socketFile'])


@attempt('network: a broadcast')
def broadcast(host):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sender.sendto(b'x', ('255.255.255.255', 9))


def made(family, kind, protocol=0):
    socket.socket(family, kind, protocol).close()


attempt('socket: a raw one')(lambda host: made(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
attempt('socket: a raw one over IPv6')(lambda host: made(socket.AF_INET6, socket.SOCK_RAW, 58))
attempt('socket: for pings')(lambda host: made(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP))
for name, family, kind, protocol in (
    ('packets', 17, socket.SOCK_RAW, 0x0300),
    ('virtual machines', 40, socket.SOCK_STREAM, 0),
    ('the kernel’s ciphers', 38, socket.SOCK_SEQPACKET, 0),
    ('Bluetooth', 31, socket.SOCK_RAW, 1),
    ('keys', 15, socket.SOCK_RAW, 2),
    ('XDP', 44, socket.SOCK_RAW, 0),
    ('TIPC', 30, socket.SOCK_RDM, 0),
    ('RDS', 21, socket.SOCK_SEQPACKET, 0),
    ('the audit log', 16, socket.SOCK_RAW, 9),
    ('events of devices', 16, socket.SOCK_RAW, 15),
    ('netfilter', 16, socket.SOCK_RAW, 12),
):
    attempt(f'socket: for {name}')(lambda host, made_of=(family, kind, protocol): made(*made_of))


def asked(kind, flags, body):
    """What routing netlink answers to a request that changes something."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as link:
        link.settimeout(5)
        link.sendto(struct.pack('=LHHLL', 16 + len(body), kind, REQUEST | ACKNOWLEDGE | flags, 1, 0) + body, (0, 0))
        answer = link.recv(4096)
    error = -struct.unpack_from('=i', answer, 16)[0]
    return errno.errorcode.get(error, 'done')


attempt('netlink: an interface taken down')(lambda host: asked(RTM_NEWLINK, 0, struct.pack('=BxHiII', 0, 0, 1, 0, 1)))
attempt('netlink: an address')(
    lambda host: asked(RTM_NEWADDR, CREATE, struct.pack('=BBBBIHH4s', 2, 24, 0, 0, 1, 8, 2, b'\x0a\0\0\x01'))
)
attempt('netlink: a route')(
    lambda host: asked(RTM_NEWROUTE, CREATE, struct.pack('=BBBBBBBBI', 2, 0, 0, 0, 254, 3, 253, 1, 0))
)


@attempt('network: interfaces besides loopback')
def interfaces(host):
    return ', '.join(name for _, name in socket.if_nameindex())


@attempt('network: a port below 1024')
def low_port(host):
    with socket.socket() as server:
        server.bind(('127.0.0.1', 80))


@attempt('network: an address that is not there')
def foreign_address(host):
    with socket.socket() as server:
        server.bind((host['address'], 0))


@attempt('network: any address, by a privileged option')
def transparent(host):
    with socket.socket() as server:
        server.setsockopt(socket.IPPROTO_IP, 19, 1)  # IP_TRANSPARENT


@attempt('network: packets marked for others’ rules')
def mark(host):
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 1)


@attempt('network: an interface of the host')
def bind_to_device(host):
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'eth0\0')


@attempt('network: names and statistics of the host')
def statistics(host):
    with open('/proc/net/unix', encoding='utf-8', errors='replace') as sockets:
        return 'found' if host['abstract'] in sockets.read() else 'nothing'


@attempt('network: by the host’s resolver')
def resolver(host):
    try:
        socket.getaddrinfo('host.invalid', 80)
    except socket.gaierror as error:
        known = {socket.EAI_AGAIN: 'no resolver', socket.EAI_NONAME: 'no such name'}
        return known.get(error.errno, os.strerror(error.errno or 0))
    return 'resolved'


def asked_of_proxy(text):
    """What the proxy of an allow-list answers; without one nobody is there."""
    with socket.create_connection(('127.200.255.254', 3128), 5) as client:
        client.sendall(text.encode())
        return client.recv(4096).partition(b' ')[2][:3].decode()


def tunnel(target):
    return asked_of_proxy(f'CONNECT {target} HTTP/1.1\r\nHost: listed.example\r\n\r\n')


# A list that allows nothing but names that lead to the host: listed.example and those below, with port 4712.
attempt('allow-list: the proxy asked for the host')(lambda host: tunnel(f'127.0.0.1:{host["port"]}'))
attempt('allow-list: the proxy asked for the host, written otherwise')(lambda host: tunnel(f'127.1:{host["port"]}'))
attempt('allow-list: the proxy asked for the host as IPv6')(lambda host: tunnel(f'[::ffff:127.0.0.1]:{host["port"]}'))
attempt('allow-list: the proxy asked for a metadata service')(lambda host: tunnel('169.254.169.254:80'))
attempt('allow-list: the proxy asked for a listed name that leads to the host')(lambda host: tunnel('a.listed.example:4712'))
attempt('allow-list: the proxy asked for a listed name with the host’s port')(
    lambda host: tunnel(f'listed.example:{host["port"]}')
)
attempt('allow-list: the proxy asked for a page of the host')(
    lambda host: asked_of_proxy(f'GET http://127.0.0.1:{host["port"]}/ HTTP/1.1\r\nHost: listed.example:4712\r\n\r\n')
)
attempt('allow-list: the proxy asked twice in one breath')(
    lambda host: tunnel(f'listed.example:4712 HTTP/1.1\r\n\r\nCONNECT 127.0.0.1:{host["port"]}')
)


def answered(address):
    with socket.create_connection(address, 5) as client:
        return 'answered' if client.recv(1) else 'ended'


attempt('allow-list: a listed name’s address that leads to the host')(lambda host: answered(('127.200.0.1', 4712)))
attempt('allow-list: a listed name’s port on loopback')(lambda host: answered(('127.0.0.1', 4712)))
attempt('allow-list: a route besides those of the list')(
    lambda host: asked(RTM_NEWROUTE, CREATE, struct.pack('=BBBBBBBBIHHIHH4s', 2, 32, 0, 0, 255, 4, 254, 2, 0, 8, 4, 1, 8, 1, b'\x0a\0\0\x01'))
)


@attempt('allow-list: the listening sockets themselves')
def listening(host):
    """A descriptor of them that was left here could be set to what its other holder does not expect."""
    found = []
    for name in os.listdir('/proc/self/fd'):
        try:
            with socket.socket(fileno=os.dup(int(name))) as held:
                found += ['found'] if held.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) else []
        except OSError:
            pass  # no socket, or the folder that was just listed
    return ', '.join(found) or 'nothing'
