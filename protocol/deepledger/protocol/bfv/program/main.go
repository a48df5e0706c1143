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
// Every string of bytes of the right length can be read, each word modulo q. A vector begins with two blocks that encrypt
// zeros, by which a sum of keys is known to be right. With one, whoever knows the others' shares could choose an error that
// fits, since `a` can be divided by. What fits both is an error d with a_0·d and a_1·d small: of 2^54 there are below 2^13
// such values for each coefficient of either, so that for random a_0 and a_1 there is almost surely none but zero.
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
	"iter"
	"math"
	"math/big"
	"math/bits"
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
	zeroBlocks = 2
	seedBytes  = 32

	// Of the errors. With the sum of two known, each is as hard to tell as one of 3.25, and the tables ask for 3.19.
	sigma = 4.6
	bound = 27 // no error is larger

	// Where more shares are wrong than can be found out, so many sets of them are tried.
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
		if block >= zeroBlocks {
			count = min(*coordinates-(block-zeroBlocks)*degree, degree)
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
	uniform, secret := ring.NewUniformSampler(common, ringQ), rlwe.NewSecretKey(params)
	var first, second [zeroBlocks]ring.Poly
	for at := range zeroBlocks {
		if first[at], err = sum(ringQ, in, *vectors); err != nil {
			return err
		}
		second[at] = ringQ.NewPoly()
		uniform.Read(second[at])
	}
	fits := func() bool {
		for at := range zeroBlocks {
			rest := ringQ.NewPoly()
			ringQ.MulCoeffsMontgomery(second[at], secret.Value.Q, rest)
			ringQ.Add(rest, first[at], rest)
			if !isSmall(ringQ, rest, *vectors) {
				return false
			}
		}
		return true
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
			if value < max(-*most, math.MinInt32) || value > min(*most, math.MaxInt32) || (at >= count && value != 0) {
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

// The key that so many shares make, of those that are right. If no more than half of those above the threshold are wrong,
// which ones is computed; otherwise sets of them are tried out, all where those are few.
func findKey(
	params bgv.Parameters, points []multiparty.ShamirPublicPoint, shares []ring.Poly, threshold int,
	secret *rlwe.SecretKey, fits func() bool,
) error {
	hash := sha256.New()
	for _, share := range shares {
		hash.Write(pack(share.Coeffs[0]))
	}
	chance, err := sampling.NewKeyedPRNG(hash.Sum(nil))
	if err != nil {
		return err
	}
	right := rightShares(points, folded(params.RingQ(), shares, chance), threshold)
	if right != nil {
		combine(params, points, shares, right[:threshold], secret)
		if fits() {
			return nil
		}
	}
	if len(right) < len(points) { // otherwise any of them make the same key
		for chosen := range sets(len(points), threshold, chance) {
			combine(params, points, shares, chosen, secret)
			if fits() {
				return nil
			}
		}
	}
	return failure{noKey, "no key that the shares make opens the sum"}
}

// Of each share one word: the sum of its words, times what follows from all shares, so that nobody can choose an error
// of which nothing is left.
func folded(ringQ *ring.Ring, shares []ring.Poly, chance sampling.PRNG) []uint64 {
	weights, words := ringQ.NewPoly(), make([]uint64, len(shares))
	ring.NewUniformSampler(chance, ringQ).Read(weights)
	for at, share := range shares {
		for place, weight := range weights.Coeffs[0] {
			words[at] = (words[at] + times(weight, share.Coeffs[0][place])) % modulus
		}
	}
	return words
}

// The places of the words that are a polynomial's, of so many coefficients, at their points, where all but half of those
// above that number are; nil if they are not. By Welch and Berlekamp (US patent 4,633,470, 1986): with a polynomial E that
// is zero where a word is wrong, and N that is E times the one that is looked for, N(x) = E(x)·word at every point.
func rightShares(points []multiparty.ShamirPublicPoint, words []uint64, coefficients int) []int {
	for wrong := range (len(points)-coefficients)/2 + 1 {
		rows := make([][]uint64, len(points)) // the unknown coefficients of N, those of E below its first, which is 1
		for at, point := range points {
			power := uint64(1)
			for range coefficients + wrong {
				rows[at] = append(rows[at], power)
				power = times(power, uint64(point))
			}
			power = modulus - words[at]
			for range wrong {
				rows[at] = append(rows[at], power%modulus)
				power = times(power, uint64(point))
			}
			rows[at] = append(rows[at], (modulus-power)%modulus)
		}
		solution := solve(rows)
		if solution == nil {
			continue
		}
		var right []int
		for at, point := range points {
			value := uint64(1)
			for down := range wrong {
				value = (times(value, uint64(point)) + solution[coefficients+2*wrong-1-down]) % modulus
			}
			if value != 0 {
				right = append(right, at)
			}
		}
		if len(right) == len(points)-wrong { // or there are too many wrong ones, and N is no multiple of E
			return right
		}
	}
	return nil
}

// What solves linear equations modulo q, each a row that ends with the right-hand side; nil if nothing does. Unknowns that
// may be anything are zero. The rows are changed.
func solve(rows [][]uint64) []uint64 {
	unknowns, done := len(rows[0])-1, 0
	solution, pivots := make([]uint64, unknowns), []int{}
	for column := 0; column < unknowns && done < len(rows); column++ {
		found := done
		for found < len(rows) && rows[found][column] == 0 {
			found++
		}
		if found == len(rows) {
			continue
		}
		rows[done], rows[found] = rows[found], rows[done]
		inverse := ring.ModExp(rows[done][column], modulus-2, modulus)
		for at, row := range rows {
			if at == done || row[column] == 0 {
				continue
			}
			factor := times(row[column], inverse)
			for place, word := range rows[done] {
				row[place] = (row[place] + modulus - times(factor, word)) % modulus
			}
		}
		pivots = append(pivots, column)
		done++
	}
	for _, row := range rows[done:] {
		if row[unknowns] != 0 {
			return nil
		}
	}
	for at, column := range pivots {
		solution[column] = times(rows[at][unknowns], ring.ModExp(rows[at][column], modulus-2, modulus))
	}
	return solution
}

// Sets of so many out of the first numbers: all of them, or some by chance where all are more than are tried.
func sets(from, chosen int, chance sampling.PRNG) iter.Seq[[]int] {
	return func(try func([]int) bool) {
		order := make([]int, from)
		for at := range order {
			order[at] = at
		}
		if number := new(big.Int).Binomial(int64(from), int64(chosen)); !number.IsInt64() || number.Int64() > tries {
			for range tries {
				for at := range order {
					other := at + int(ring.RandUniform(chance, uint64(from-at), mask(from-at)))
					order[at], order[other] = order[other], order[at]
				}
				if !try(order[:chosen]) {
					return
				}
			}
			return
		}
		for set := order[:chosen]; try(set); {
			last := chosen - 1
			for last >= 0 && set[last] == from-chosen+last {
				last--
			}
			if last < 0 {
				return
			}
			set[last]++
			for at := last + 1; at < chosen; at++ {
				set[at] = set[at-1] + 1
			}
		}
	}
}

func times(one, other uint64) uint64 {
	high, low := bits.Mul64(one, other)
	_, rest := bits.Div64(high, low, modulus)
	return rest
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
	return zeroBlocks + (coordinates+degree-1)/degree
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
	var filled int
	for _, word := range words {
		held |= word << filled
		for filled += wordBits; filled >= 8; filled -= 8 {
			packed.WriteByte(byte(held))
			held >>= 8
		}
	}
	return packed.Bytes()
}

func unpack(packed []byte, words []uint64) {
	var held uint64
	var filled int
	for at := range words {
		for ; filled < wordBits; filled += 8 {
			held |= uint64(packed[0]) << filled
			packed = packed[1:]
		}
		words[at] = (held & (1<<wordBits - 1)) % modulus
		held >>= wordBits
		filled -= wordBits
	}
}

func mask(below int) uint64 {
	whole := uint64(1)
	for whole < uint64(below) {
		whole <<= 1
	}
	return whole - 1
}
