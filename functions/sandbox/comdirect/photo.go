package comdirect

import (
	"bytes"
	"crypto/sha256"
	"image"
	"image/color"
	"image/png"
)

// digits is a font of 5 by 7 dots: one byte a row, the leftmost dot in bit 4.
var digits = [10][7]byte{
	{0x0E, 0x11, 0x13, 0x15, 0x19, 0x11, 0x0E},
	{0x04, 0x0C, 0x04, 0x04, 0x04, 0x04, 0x0E},
	{0x0E, 0x11, 0x01, 0x02, 0x04, 0x08, 0x1F},
	{0x1F, 0x02, 0x04, 0x02, 0x01, 0x11, 0x0E},
	{0x02, 0x06, 0x0A, 0x12, 0x1F, 0x02, 0x02},
	{0x1F, 0x10, 0x1E, 0x01, 0x01, 0x11, 0x0E},
	{0x06, 0x08, 0x10, 0x1E, 0x11, 0x11, 0x0E},
	{0x1F, 0x01, 0x02, 0x04, 0x08, 0x08, 0x08},
	{0x0E, 0x11, 0x11, 0x0E, 0x11, 0x11, 0x0E},
	{0x0E, 0x11, 0x11, 0x0F, 0x01, 0x02, 0x0C},
}

// Measures of the photoTAN image, in pixels where nothing else is said.
const (
	photoTiles  = 22 // a side of the mosaic, in tiles
	photoTile   = 8
	photoMargin = 12
	photoDot    = 4
	photoWidth  = photoTiles*photoTile + 2*photoMargin
	photoHeight = photoWidth + 7*photoDot + photoMargin
)

var photoColours = color.Palette{color.White, color.Black, color.RGBA{0xD0, 0x10, 0x30, 0xFF},
	color.RGBA{0x10, 0x90, 0x40, 0xFF}, color.RGBA{0x10, 0x40, 0xC0, 0xFF}}

// photo draws a photoTAN image as PNG: a coloured mosaic that only the challenge determines, and below it the code in
// plain digits, as the person practising has no device that reads mosaics.
func photo(challenge, code string) []byte {
	img := image.NewPaletted(image.Rect(0, 0, photoWidth, photoHeight), photoColours)
	seed := sha256.Sum256([]byte(challenge))
	random := splitmix(seed[:])
	for tile := range photoTiles * photoTiles {
		x, y := tile%photoTiles, tile/photoTiles
		paint(img, photoMargin+x*photoTile, photoMargin+y*photoTile, photoTile, uint8(random()%5))
	}
	left := (photoWidth - (len(code)*6-1)*photoDot) / 2
	for i, c := range []byte(code) {
		drawDigit(img, left+i*6*photoDot, photoWidth, int(c-'0'))
	}
	var out bytes.Buffer
	if err := png.Encode(&out, img); err != nil {
		panic("drawing photoTAN: " + err.Error())
	}
	return out.Bytes()
}

func drawDigit(img *image.Paletted, left, top, digit int) {
	for row, dots := range digits[digit] {
		for column := range 5 {
			if dots&(0x10>>column) != 0 {
				paint(img, left+column*photoDot, top+row*photoDot, photoDot, 1)
			}
		}
	}
}

// paint fills a square.
func paint(img *image.Paletted, left, top, size int, colour uint8) {
	for y := top; y < top+size; y++ {
		for x := left; x < left+size; x++ {
			img.SetColorIndex(x, y, colour)
		}
	}
}
