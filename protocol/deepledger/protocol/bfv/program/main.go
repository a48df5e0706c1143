// deepledger-bfv: sums of vectors under keys that are used once, by Lattigo's BFV and its Shamir shares of keys.
//
// Everybody encrypts block by block with the same second parts `a`, which follow from a seed, and with a key of its own,
// drawn for this one vector: c_i = m_i/t + e_i - a·s_i mod q. So the first parts add up to those of the sum, under the sum
// of the keys. Shares of keys add up as well: whoever holds one of each key holds one of their sum.
//
//	encrypt  -coordinates d -holders n -threshold t   seed, d int32             -> vector, n shares
//	add      -shares k                                k shares                  -> their sum
//	source                                                                      -> SHA-256 of what it was built from
//	open     -coordinates d -vectors k -points x,…    seed, shares of the       -> d int32, the sum of the vectors
//	         -threshold t -most m                     points, k vectors that
//	                                                  take turns by block
//
// What is read and written are words of 54 bits, little-endian without gaps: 2,048 of them are a block, as is a share.
// Every string of bytes of the right length can be read, each word modulo q. A vector begins with a block that encrypts
// zeros, by which a sum of keys is known to be right: another one that fits would solve a hard problem of lattices.
package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/tuneinsight/lattigo/v6/core/rlwe"
	"github.com/tuneinsight/lattigo/v6/multiparty"
	"github.com/tuneinsight/lattigo/v6/ring"
	"github.com/tuneinsight/lattigo/v6/schemes/bgv"
	"github.com/tuneinsight/lattigo/v6/utils/sampling"
)

const (
	logN     = 11
	degree   = 1 << logN
	modulus  = 18014398509404161 // the largest prime of 54 bits that is 1 modulo 2N
	plain    = 4294991873        // t, the least such prime above 2^32
	wordBits = 54

	blockBytes = degree * wordBits / 8
	seedBytes  = 32

	// Of the errors. With the sum of two known, each is as hard to tell as one of 3.25, and the tables ask for 3.19.
	sigma = 4.6
	bound = 27 // no error is larger

	// Which of the shares fit together is tried out so often.
	tries = 1000

	noKey, beyond = 3, 4 // exit codes
)

var literal = bgv.ParametersLiteral{
	LogN: logN, Q: []uint64{modulus}, PlaintextModulus: plain, Xe: ring.DiscreteGaussian{Sigma: sigma, Bound: bound},
}

//go:embed main.go go.mod go.sum
var sources embed.FS

type failure struct {
	code  int
	words string
}

func (f failure) Error() string { return f.words }

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

func run(arguments []string, in io.Reader, out, complaints io.Writer) (code int) {
	defer func() {
		if trouble := recover(); trouble != nil {
			fmt.Fprintln(complaints, trouble)
			code = 1
		}
	}()
	var err error
	reader, writer := bufio.NewReaderSize(in, 1<<16), bufio.NewWriterSize(out, 1<<16)
	switch {
	case len(arguments) == 0:
		err = errors.New("one of encrypt, add, open")
	case arguments[0] == "source":
		err = source(writer)
	case arguments[0] == "encrypt":
		err = encrypt(arguments[1:], reader, writer)
	case arguments[0] == "add":
		err = add(arguments[1:], reader, writer)
	case arguments[0] == "open":
		err = open(arguments[1:], reader, writer)
	default:
		err = fmt.Errorf("%q is none of encrypt, add, open", arguments[0])
	}
	if err == nil {
		err = writer.Flush()
	}
	if err == nil {
		return 0
	}
	fmt.Fprintln(complaints, err)
	var told failure
	if errors.As(err, &told) {
		return told.code
	}
	return 1
}

func source(out io.Writer) error {
	hash := sha256.New()
	for _, name := range []string{"main.go", "go.mod", "go.sum"} {
		content, err := sources.ReadFile(name)
		if err != nil {
			return err
		}
		hash.Write(content)
	}
	_, err := fmt.Fprintf(out, "%x\n", hash.Sum(nil))
	return err
}

func encrypt(arguments []string, in io.Reader, out io.Writer) error {
	flags := flag.NewFlagSet("encrypt", flag.ContinueOnError)
	coordinates := flags.Int("coordinates", 0, "of the vector")
	holders := flags.Int("holders", 0, "of shares")
	threshold := flags.Int("threshold", 0, "shares that make the key")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	if *coordinates < 1 || *holders < 1 || *threshold < 1 || *threshold > *holders {
		return errors.New("a vector has coordinates, and a key no fewer holders than its threshold")
	}
	params, common, err := begin(in)
	if err != nil {
		return err
	}
	random, err := sampling.NewPRNG()
	if err != nil {
		return err
	}
	// Uniform, so that a sum of keys tells nothing of any two that are in it but their sum.
	secret := rlwe.NewSecretKey(params)
	ring.NewUniformSampler(random, params.RingQ()).Read(secret.Value.Q)
	encryptor, encoder := bgv.NewEncryptor(params, secret).WithPRNG(common), bgv.NewEncoder(params)
	plaintext, ciphertext := bgv.NewPlaintext(params, 0), bgv.NewCiphertext(params, 1, 0)
	values := make([]int64, degree)
	for block := 0; block < blocks(*coordinates); block++ {
		count := 0
		if block > 0 {
			count = min(*coordinates-(block-1)*degree, degree)
		}
		read := make([]int32, count)
		if err := binary.Read(in, binary.LittleEndian, read); err != nil {
			return err
		}
		clear(values)
		for at, value := range read {
			values[at] = int64(value)
		}
		if err := encoder.Encode(values, plaintext); err != nil {
			return err
		}
		if err := encryptor.Encrypt(plaintext, ciphertext); err != nil {
			return err
		}
		if _, err := out.Write(pack(ciphertext.Value[0].Coeffs[0])); err != nil {
			return err
		}
	}
	sharer := multiparty.NewThresholdizer(params)
	polynomial, err := sharer.GenShamirPolynomial(*threshold, secret)
	if err != nil {
		return err
	}
	for holder := range *holders {
		share := sharer.AllocateThresholdSecretShare()
		sharer.GenShamirSecretShare(multiparty.ShamirPublicPoint(holder+1), polynomial, &share)
		if _, err := out.Write(pack(share.Q.Coeffs[0])); err != nil {
			return err
		}
	}
	return nil
}

func add(arguments []string, in io.Reader, out io.Writer) error {
	flags := flag.NewFlagSet("add", flag.ContinueOnError)
	shares := flags.Int("shares", 0, "that are added up")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	params, err := bgv.NewParametersFromLiteral(literal)
	if err != nil {
		return err
	}
	total, err := sum(params.RingQ(), in, *shares)
	if err != nil {
		return err
	}
	_, err = out.Write(pack(total.Coeffs[0]))
	return err
}

func open(arguments []string, in io.Reader, out io.Writer) error {
	flags := flag.NewFlagSet("open", flag.ContinueOnError)
	coordinates := flags.Int("coordinates", 0, "of every vector")
	vectors := flags.Int("vectors", 0, "that are added up")
	threshold := flags.Int("threshold", 0, "shares that make a key")
	most := flags.Int64("most", 0, "that a coordinate of the sum can be, either way")
	listed := flags.String("points", "", "of the shares")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	points, err := parsePoints(*listed)
	if err != nil {
		return err
	}
	if *coordinates < 1 || *vectors < 1 || *threshold < 1 || len(points) < *threshold {
		return errors.New("a sum has vectors with coordinates, and shares for the threshold")
	}
	params, common, err := begin(in)
	if err != nil {
		return err
	}
	ringQ, shares := params.RingQ(), make([]ring.Poly, len(points))
	for at := range shares {
		if shares[at], err = sum(ringQ, in, 1); err != nil {
			return err
		}
	}
	uniform, second := ring.NewUniformSampler(common, ringQ), ringQ.NewPoly()
	first, err := sum(ringQ, in, *vectors)
	if err != nil {
		return err
	}
	uniform.Read(second)
	secret := rlwe.NewSecretKey(params)
	fits := func() bool {
		rest := ringQ.NewPoly()
		ringQ.MulCoeffsMontgomery(second, secret.Value.Q, rest)
		ringQ.Add(rest, first, rest)
		return isSmall(ringQ, rest, *vectors)
	}
	if err := findKey(params, points, shares, *threshold, secret, fits); err != nil {
		return err
	}

	encoder, decryptor := bgv.NewEncoder(params), bgv.NewDecryptor(params, secret)
	plaintext, again := bgv.NewPlaintext(params, 0), bgv.NewPlaintext(params, 0)
	ciphertext, values := bgv.NewCiphertext(params, 1, 0), make([]int64, degree)
	for start := 0; start < *coordinates; start += degree {
		if ciphertext.Value[0], err = sum(ringQ, in, *vectors); err != nil {
			return err
		}
		uniform.Read(ciphertext.Value[1])
		decryptor.Decrypt(ciphertext, plaintext)
		if err := encoder.Decode(plaintext, values); err != nil {
			return err
		}
		if err := encoder.Encode(values, again); err != nil {
			return err
		}
		rest := ringQ.NewPoly()
		ringQ.Sub(plaintext.Value, again.Value, rest)
		if !isSmall(ringQ, rest, *vectors) {
			return failure{noKey, fmt.Sprintf("what is encrypted from coordinate %d on is under other keys", start)}
		}
		count := min(*coordinates-start, degree)
		opened := make([]int32, count)
		for at, value := range values {
			if value < -*most || value > *most || (at >= count && value != 0) {
				return failure{beyond, fmt.Sprintf("the sum is %d at coordinate %d", value, start+at)}
			}
			if at < count {
				opened[at] = int32(value)
			}
		}
		if err := binary.Write(out, binary.LittleEndian, opened); err != nil {
			return err
		}
	}
	if _, err := io.ReadFull(in, make([]byte, 1)); err != io.EOF {
		return errors.New("there are more bytes than vectors have")
	}
	return nil
}

// The key that so many shares make, of those that fit together: a share may be wrong, and which one nothing tells but that
// what comes out does not fit. First those at the front are tried, then others by chance, the same for everybody.
func findKey(
	params bgv.Parameters, points []multiparty.ShamirPublicPoint, shares []ring.Poly, threshold int,
	secret *rlwe.SecretKey, fits func() bool,
) error {
	order := make([]int, len(points))
	for at := range order {
		order[at] = at
	}
	hash := sha256.New()
	for _, share := range shares {
		hash.Write(pack(share.Coeffs[0]))
	}
	chance, err := sampling.NewKeyedPRNG(hash.Sum(nil))
	if err != nil {
		return err
	}
	attempts := tries
	if len(points) == threshold {
		attempts = 1
	}
	for range attempts {
		combine(params, points, shares, order[:threshold], secret)
		if fits() {
			return nil
		}
		for at := range order {
			other := at + int(ring.RandUniform(chance, uint64(len(order)-at), mask(len(order)-at)))
			order[at], order[other] = order[other], order[at]
		}
	}
	return failure{noKey, "no key that the shares make opens the sum"}
}

func combine(
	params bgv.Parameters, points []multiparty.ShamirPublicPoint, shares []ring.Poly, chosen []int, secret *rlwe.SecretKey,
) {
	active := make([]multiparty.ShamirPublicPoint, len(chosen))
	for at, number := range chosen {
		active[at] = points[number]
	}
	part, ringQ := rlwe.NewSecretKey(params), params.RingQ()
	secret.Value.Q.Zero()
	for _, number := range chosen {
		combiner := multiparty.NewCombiner(*params.GetRLWEParameters(), points[number], active, len(active))
		share := multiparty.ShamirSecretShare{Poly: *part.Value.CopyNew()}
		share.Q.Copy(shares[number])
		if err := combiner.GenAdditiveShare(active, points[number], share, part); err != nil {
			panic(err)
		}
		ringQ.Add(secret.Value.Q, part.Value.Q, secret.Value.Q)
	}
}

// Whether a polynomial is no more than the errors of so many ciphertexts; it is changed.
func isSmall(ringQ *ring.Ring, poly ring.Poly, ciphertexts int) bool {
	ringQ.INTT(poly, poly)
	most := uint64(bound * ciphertexts)
	for _, word := range poly.Coeffs[0] {
		if min(word, modulus-word) > most {
			return false
		}
	}
	return true
}

// The parameters, and what the second parts of all ciphertexts are drawn from.
func begin(in io.Reader) (bgv.Parameters, sampling.PRNG, error) {
	seed := make([]byte, seedBytes)
	if _, err := io.ReadFull(in, seed); err != nil {
		return bgv.Parameters{}, nil, err
	}
	common, err := sampling.NewKeyedPRNG(append([]byte("deepledger: bfv"), seed...))
	if err != nil {
		return bgv.Parameters{}, nil, err
	}
	params, err := bgv.NewParametersFromLiteral(literal)
	return params, common, err
}

func blocks(coordinates int) int {
	return 1 + (coordinates+degree-1)/degree
}

func parsePoints(listed string) ([]multiparty.ShamirPublicPoint, error) {
	var points []multiparty.ShamirPublicPoint
	known := map[uint64]bool{}
	for _, text := range strings.Split(listed, ",") {
		point, err := strconv.ParseUint(text, 10, 16)
		if err != nil || point == 0 || known[point] {
			return nil, fmt.Errorf("%q is no list of different points above zero", listed)
		}
		known[point] = true
		points = append(points, multiparty.ShamirPublicPoint(point))
	}
	return points, nil
}

// What so many blocks add up to.
func sum(ringQ *ring.Ring, in io.Reader, number int) (ring.Poly, error) {
	total, block, packed := ringQ.NewPoly(), ringQ.NewPoly(), make([]byte, blockBytes)
	for range number {
		if _, err := io.ReadFull(in, packed); err != nil {
			return total, err
		}
		unpack(packed, block.Coeffs[0])
		ringQ.Add(total, block, total)
	}
	return total, nil
}

func pack(words []uint64) []byte {
	var packed bytes.Buffer
	packed.Grow(blockBytes)
	var held uint64
	var bits int
	for _, word := range words {
		held |= word << bits
		for bits += wordBits; bits >= 8; bits -= 8 {
			packed.WriteByte(byte(held))
			held >>= 8
		}
	}
	return packed.Bytes()
}

func unpack(packed []byte, words []uint64) {
	var held uint64
	var bits int
	for at := range words {
		for ; bits < wordBits; bits += 8 {
			held |= uint64(packed[0]) << bits
			packed = packed[1:]
		}
		words[at] = (held & (1<<wordBits - 1)) % modulus
		held >>= wordBits
		bits -= wordBits
	}
}

func mask(below int) uint64 {
	whole := uint64(1)
	for whole < uint64(below) {
		whole <<= 1
	}
	return whole - 1
}
