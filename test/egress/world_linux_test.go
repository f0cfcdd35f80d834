package egress

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"
)

const worldVariable = "SLUIS_TEST_WORLD"

// sealed says that this process lives in a world of its own.
var sealed bool

// inWorld runs the whole package once more in a network namespace, and gives its exit code. It is not done where this is
// that process, or where no namespace can be made.
func inWorld() (code int, done bool) {
	if os.Getenv(worldVariable) != "" {
		if err := makeWorld(); err != nil {
			fmt.Fprintln(os.Stderr, "making a world:", err)
			return 1, true
		}
		sealed = true
		return 0, false
	}
	if err := inNamespace("/bin/true").Run(); err != nil {
		return 0, false
	}
	child := inNamespace(os.Args[0], os.Args[1:]...)
	child.Env = append(os.Environ(), worldVariable+"=1")
	child.Stdin, child.Stdout, child.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := child.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return max(exit.ExitCode(), 1), true
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "entering a world:", err)
		return 1, true
	}
	return 0, true
}

// inNamespace is a command in a user and network namespace of its own.
func inNamespace(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}}
	return cmd
}

// makeWorld makes every address this machine: "ip link set lo up; ip route add local 0.0.0.0/0 dev lo", and for IPv6.
func makeWorld() error {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		return err
	}
	if err := raise("lo"); err != nil {
		return fmt.Errorf("raising lo: %w", err)
	}
	for _, family := range []byte{syscall.AF_INET, syscall.AF_INET6} {
		if err := routeHere(family, lo.Index); err != nil {
			return fmt.Errorf("routing: %w", err)
		}
	}
	return nil
}

// raise sets an interface up, as netdevice(7) says.
func raise(name string) error {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	var request struct { // struct ifreq
		name  [syscall.IFNAMSIZ]byte
		flags uint16
		_     [22]byte
	}
	copy(request.name[:], name)
	request.flags = syscall.IFF_UP | syscall.IFF_RUNNING
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), syscall.SIOCSIFFLAGS, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return errno
	}
	return nil
}

// routeHere adds the default route of a family to the local table, as rtnetlink(7) says.
func routeHere(family byte, device int) error {
	fd, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_RAW, syscall.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	native := binary.NativeEndian
	const size = syscall.SizeofNlMsghdr + syscall.SizeofRtMsg + syscall.SizeofRtAttr + 4
	b := native.AppendUint32(nil, size)
	b = native.AppendUint16(b, syscall.RTM_NEWROUTE)
	b = native.AppendUint16(b, syscall.NLM_F_REQUEST|syscall.NLM_F_ACK|syscall.NLM_F_CREATE)
	b = append(b, 1, 0, 0, 0, 0, 0, 0, 0) // sequence, port
	b = append(b, family, 0, 0, 0, syscall.RT_TABLE_LOCAL, syscall.RTPROT_BOOT, syscall.RT_SCOPE_HOST, syscall.RTN_LOCAL, 0, 0, 0, 0)
	b = native.AppendUint16(b, syscall.SizeofRtAttr+4)
	b = native.AppendUint16(b, syscall.RTA_OIF)
	b = native.AppendUint32(b, uint32(device))
	if err := syscall.Sendto(fd, b, 0, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK}); err != nil {
		return err
	}
	answer := make([]byte, 4096)
	n, _, err := syscall.Recvfrom(fd, answer, 0)
	if err != nil || n < syscall.SizeofNlMsghdr+4 {
		return errors.Join(err, errors.New("no answer"))
	}
	if errno := -int32(native.Uint32(answer[syscall.SizeofNlMsghdr:])); errno != 0 {
		return syscall.Errno(errno)
	}
	return nil
}

// begun is how many TCP connections were ever begun in this world, whatever became of them: the kernel counts. Outside of
// a world it would count those of strangers too, and says nothing.
func begun(t *testing.T) int {
	t.Helper()
	if !sealed {
		return 0
	}
	raw, err := os.ReadFile("/proc/self/net/snmp")
	must(t, err)
	var names []string
	for line := range strings.Lines(string(raw)) {
		fields := strings.Fields(line)
		if fields[0] != "Tcp:" {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		for i, name := range names {
			if name == "ActiveOpens" {
				n, err := strconv.Atoi(fields[i])
				must(t, err)
				return n
			}
		}
	}
	t.Fatal("the kernel does not count")
	return 0
}
