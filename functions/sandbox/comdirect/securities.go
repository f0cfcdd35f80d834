package comdirect

import (
	"fmt"
	"strings"
)

// security is an instrument. All issuers are invented; their WKNs begin with SBX, which no real one does.
type security struct {
	isin, wkn       string
	name, short     string
	symbol          string
	kind            string // StaticData.instrumentType
	currency        string
	percent         bool  // priced in per cent of face
	price, previous int64 // in ten-thousandths
	coupon          string
	maturity        string
}

// usual is what a depot holds unless its login says otherwise.
var usual = []security{
	german("SBX001", "Nordhafen Reederei AG", "NORDHAFEN", "NHR", "SHARE", 42_4600, 41_9800),
	german("SBX002", "Alpenquell Getränke SE", "ALPENQUELL", "AQG", "SHARE", 118_2000, 119_0500),
	german("SBX003", "Rheinwerk Antriebstechnik AG", "RHEINWERK", "RWA", "SHARE", 67_3500, 66_7200),
	german("SBX004", "Hanseatische Windkraft AG", "HANSEWIND", "HWK", "SHARE", 14_8750, 14_6100),
	german("SBX005", "Sternwarte Optik KGaA", "STERNWARTE OPT", "STW", "SHARE", 203_4000, 201_1000),
	german("SBX006", "Deichgraf Versicherung AG", "DEICHGRAF", "DGV", "SHARE", 251_9000, 253_2000),
	foreign("LU", "0SBX0071", "SBX007", "Meridian Europa Dividende A", "MERIDIAN EU DIV", "FUND", "EUR", 88_1300, 87_9400),
	foreign("LU", "0SBX0082", "SBX008", "Meridian Schwellenländer Aktien B", "MERIDIAN EM", "FUND", "EUR", 54_7200, 55_0100),
	foreign("IE", "00SBX0093", "SBX009", "Kompass World All Cap UCITS ETF", "KOMPASS WORLD", "ETF", "EUR", 103_5840, 102_9910),
	foreign("IE", "00SBX0101", "SBX010", "Kompass Global Small Cap UCITS ETF", "KOMPASS SMALL", "ETF", "EUR", 61_0230, 60_8800),
	german("SBX011", "Kontor Bank Discount-Zertifikat auf Rheinwerk", "KONTOR DISC RWA", "", "CERTIFICATE", 58_9400, 58_7000),
	bond("DE000", "SBX012", "Freistaat Küstenland 2,25 % 2031", "KUESTENL. 2,25", "EUR", 98_7350, 98_6900, "2.25", "2031-09-15"),
}

var currencies = append([]security{
	foreign("US", "SBX001017", "SBX021", "Prairie Rail Holdings Inc.", "PRAIRIE RAIL", "SHARE", "USD", 78_1200, 77_6500),
	foreign("US", "SBX002015", "SBX022", "Bluewater Analytics Corp.", "BLUEWATER", "SHARE", "USD", 312_4500, 315_0200),
	foreign("CH", "0SBX00238", "SBX023", "Gletscher Pharma AG", "GLETSCHER PH", "SHARE", "CHF", 94_3600, 94_1000),
	foreign("GB", "00SBX0245", "SBX024", "Harrowgate Utilities plc", "HARROWGATE", "SHARE", "GBP", 9_8740, 9_9010),
	foreign("IE", "00SBX0093", "SBX009", "Kompass World All Cap UCITS ETF", "KOMPASS WORLD", "ETF", "USD", 112_3880, 111_7450),
}, usual[:4:4]...)

var bonds = []security{
	usual[11],
	bond("DE000", "SBX031", "Deichgraf Versicherung AG Nachrang 4,125 % 2036", "DEICHGRAF 4,125", "EUR",
		101_4200, 101_3000, "4.125", "2036-03-01"),
	bond("XS000", "SBX032", "Harrowgate Utilities plc 3,5 % 2029", "HARROWG. 3,5", "EUR", 97_0150, 97_1100, "3.5", "2029-11-20"),
	bond("XS000", "SBX033", "Prairie Rail Holdings Inc. 5,0 % 2030", "PRAIRIE 5,0", "USD", 102_8800, 102_7600, "5.0", "2030-06-30"),
	bond("DE000", "SBX034", "Bundesland Mittelmark Nullkupon 2040", "MITTELMARK 0", "EUR", 58_2400, 58_3100, "0", "2040-01-04"),
}

var assortments = map[assortment][]security{
	assortmentUsual: usual, assortmentHuge: usual, assortmentOdd: usual[:6],
	assortmentCurrencies: append(currencies,
		german("SBX025", "Kontor Bank AG", "KONTOR", "KTB", "SHARE", 21_5500, 21_4000), usual[8]),
	assortmentBonds: bonds,
}

func german(wkn, name, short, symbol, kind string, price, previous int64) security {
	return security{isin: checked("DE000" + wkn), wkn: wkn, name: name, short: short, symbol: symbol, kind: kind,
		currency: "EUR", price: price, previous: previous}
}

// foreign pads the national number to nine characters.
func foreign(country, nsin, wkn, name, short, kind, currency string, price, previous int64) security {
	return security{isin: checked(country + strings.Repeat("0", 9-len(nsin)) + nsin), wkn: wkn, name: name, short: short,
		kind: kind, currency: currency, price: price, previous: previous}
}

func bond(prefix, wkn, name, short, currency string, price, previous int64, coupon, maturity string) security {
	return security{isin: checked(prefix + wkn), wkn: wkn, name: name, short: short, kind: "BONDS", currency: currency,
		percent: true, price: price, previous: previous, coupon: coupon, maturity: maturity}
}

// bulkSecurity makes the ith of a great many securities.
func bulkSecurity(i int) security {
	s := bulkPriced(i)
	s.wkn = fmt.Sprintf("S%05d", i)
	s.isin = checked("DE000" + s.wkn)
	s.name, s.short = fmt.Sprintf("Sammelwert Nr. %d AG", i), fmt.Sprintf("SAMMELW %d", i)
	return s
}

// bulkPriced is bulkSecurity without its names.
func bulkPriced(i int) security {
	price := int64(5_0000 + mix(uint64(i))%400_0000)
	return security{kind: "SHARE", currency: "EUR", price: price, previous: price - price/200}
}

// checked appends the check digit of an ISIN (ISO 6166): letters become two digits, then Luhn's sum from the right.
func checked(base string) string {
	var expanded []int
	for _, c := range []byte(base) {
		if c >= 'A' {
			expanded = append(expanded, int(c-'A'+10)/10, int(c-'A'+10)%10)
			continue
		}
		expanded = append(expanded, int(c-'0'))
	}
	sum := 0
	for i := range expanded {
		d := expanded[len(expanded)-1-i]
		if i%2 == 0 {
			d *= 2
		}
		sum += d/10 + d%10
	}
	return base + string(rune('0'+(10-sum%10)%10))
}

// id is the bank's identifier of the instrument: the same in every currency.
func (s security) id() string { return identifier("instrument", s.isin) }

// unit is what a price is in.
func (s security) unit() string {
	if s.percent {
		return "XXC" // per cent (chapter 3.4.1)
	}
	return s.currency
}
