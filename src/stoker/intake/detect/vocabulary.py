"""Words typed in by hand: streets, units, titles, months, company forms, nationalities.

See docs/design/detect.md.

All in lower case. What is longer, names and places, comes from the lists beside this module.
"""

from __future__ import annotations

from typing import Final


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


MONTHS: Final = _words(
    "january february march april may june july august september october november december jan feb mar apr "
    "jun jul aug sep sept oct nov dec januar februar märz mai juni juli oktober dezember janvier février "
    "mars avril juin juillet août septembre octobre novembre décembre enero febrero marzo abril mayo junio "
    "julio agosto septiembre octubre noviembre diciembre gennaio febbraio aprile maggio giugno luglio "
    "settembre ottobre dicembre januari februari maart mei augustus janeiro fevereiro março maio junho julho "
    "setembro outubro novembro dezembro"
)
WEEKDAYS: Final = _words(
    "mon tue tues wed thu thur thurs fri sat sun monday tuesday wednesday thursday friday saturday sunday "
    "montag dienstag mittwoch donnerstag freitag samstag sonntag lundi mardi mercredi jeudi vendredi samedi "
    "dimanche lunes martes miércoles jueves viernes sábado domingo"
)
TITLES: Final = _words(
    "mr mrs ms miss mx dr prof professor sir madam dame lord lady rev reverend fr herr frau monsieur madame "
    "mme mlle señor señora sr sra srta senor senora signor signora sig dott ing dhr mevr mevrouw pan paní hr "
    "fru fröken rabbi imam judge justice senator president chancellor minister captain capt colonel col "
    "major maj general gen lieutenant lt sergeant sgt officer detective inspector king queen prince princess "
    "pope saint uncle aunt"
)
HONORIFICS: Final = _words(
    "mr mrs ms miss mx dr prof professor sir madam dame rev reverend fr lord lady rabbi imam herr frau "
    "fräulein dipl ing mag dott monsieur madame mademoiselle m mm mme mlle me maître docteur señor señora "
    "señorita don doña sr sra srta d dª dra sig signor signora signorina sig.ra sig.na dott dott.ssa dottor "
    "dottoressa avv arch on prof.ssa dhr mevr mevrouw mej mw de heer drs ir mr pan pani państwo mgr inż lek "
    "senhor senhora dona dr.ª eng hr fr fru frk fröken frøken herra rouva paní slečna pán mudr judr phdr bc "
    "úr dl dna domnul doamna bay bayan gospodin gospođa gospa gospod"
)
"""Forms of address and degrees that stand before a name, without the stop behind them."""

STREET_WORDS: Final = _words(
    # English
    "street st avenue ave av road rd lane ln drive dr court ct place pl boulevard blvd way terrace ter trail "
    "trl parkway pkwy circle cir square sq highway hwy crescent cres close grove row walk alley aly plaza "
    "loop crossing ridge heights hill hills mews gardens vale path pike turnpike esplanade promenade quay "
    "wharf junction route rte freeway expressway causeway bypass mall parade glen glens hollow hollows "
    "landing knoll knolls meadow meadows orchard park parks point points port ports prairie ranch rapid "
    "rapids rest river road roads run shoal shoals shore shores skyway spring springs spur spurs squares "
    "station stream streets summit throughway trace track trafficway trails tunnel tunnels turnpike "
    "underpass union unions valley valleys via viaduct view views village villages ville vista walks wall "
    "ways well wells manor manors mission mills mill mount mountain mountains neck oval overpass pass "
    "passage pine pines plain plains plazas islands island isle haven harbor harbors green greens groves "
    "grove gateway garden fork forks fort forges forge ford fords forest field fields ferry falls fall "
    "extension extensions estate estates drives dam dale curve curves cove coves courts course corner "
    "corners common commons cliff cliffs club centers center cape canyon camp burgs burg brook brooks bridge "
    "branch bottom bluff bluffs beach bayou avenue alley lodge lock locks lights light lakes lake key keys "
    "inlet hill flats flat annex arcade motorway mews radial ramp crest creek crossroad divide rue "
    # German
    "straße strasse str weg platz allee gasse ring damm ufer chaussee steig "
    # French
    "rue avenue boulevard place chemin impasse allée allee quai route cours passage faubourg ruelle sentier "
    # Spanish and Portuguese
    "calle avenida avda carrera paseo plaza camino carretera ronda callejón travesía glorieta rambla rua "
    "travessa largo praça alameda estrada rodovia beco "
    # Italian
    "via viale piazza corso vicolo largo strada piazzale lungomare contrada "
    # Dutch, Scandinavian, Finnish, Icelandic
    "straat laan weg plein gracht kade singel gatan gata vägen väg gränd vej gade allé plads stræde vei "
    "veien gate gaten plass katu tie kuja polku "
    # Hungarian, Polish, Czech, Slovak, Slovenian, Croatian, Serbian, Romanian, Turkish, Estonian, Russian,
    # Greek
    "utca út útja u tér tere körút köz sor fasor dűlő kapu ul ulica aleja al plac os osiedle ulice třída "
    "náměstí nábřeží ulica cesta trg nabrežje pot ulici strada calea bulevardul șoseaua cadde caddesi sokak "
    "sokağı bulvarı mah mahallesi tn tänav pst maantee mnt ulitsa prospekt pereulok shosse odos leoforos "
    "plateia"
)
STREET_STEMS: Final = _words(
    "straße strasse gasse weg platz allee damm ufer chaussee graben steig gatan gata vägen gränd backen "
    "stigen gade vej vænget alle stræde parken toften veien vei gate svingen bakken plass katu kuja polku "
    "tie kaari rinne puisto vegur stræti braut stígur hlíð bær teigur straat laan plein gracht kade "
    "singel dijk hof steenweg dreef lei ulica cesta utca útja tere körút maantee tänav puiestee stien "
    "haven bugt sund gården bundesstrasse tunet haugen faret lia vollen åsen berg bach bergen eng marka "
    "krokur gerði fell vellir götu gil tún hverfi hóll mýri strate straeti gerdi tangi skógar hverve "
    "polder bos hove heerd achterberghove "
)
"""Endings of one-word street names, `Koskikatu`, `Hauptstraße`."""


UNIT_WORDS: Final = _words(
    "apt apartment suite ste unit flat room rm floor fl box psc building bldg appt app wohnung top etage "
    "piso dpto depto byt lok lokal kat daire stg postbox postboks postfach bp boîte casilla apartado"
)
MILITARY: Final = _words("apo fpo dpo")
SHIPS: Final = _words("usns usnv uscgc uss usnv")

COMPANY_FORMS: Final = _words(
    "inc incorporated ltd limited llc llp plc corp corporation co gmbh ag kg ohg ug se sa sas sarl srl spa "
    "sl bv nv oy oyj ab as asa aps kft zrt nyrt rt sro doo ood ead ooo oao zao pty pte bhd kk lp lllp "
    "foundation"
)
COMPANY_WORDS: Final = _words(
    "corporation group technologies technology solutions systems associates partners holdings capital bank "
    "insurance consulting analytics software labs laboratories industries international enterprises ventures "
    "media networks network services university institute college hospital clinic school academy council "
    "committee commission agency ministry department association society union federation foundation trust "
    "league party press publishing records studios pictures entertainment motors airlines airways energy "
    "pharmaceuticals pharma biotech healthcare financial finance investments securities markets exchange "
    "logistics transit movers lines realty properties company companies brothers sons orchestra elsevier "
    "intelligence incorporated advisors advisory interactive mobile data health insights innovations "
    "robotics semiconductor communications telecom broadcasting times magazine museum library government "
    "parliament senate congress court"
)
NATIONALITIES: Final = _words(
    "afghan albanian algerian american andorran angolan argentine argentinian armenian australian austrian "
    "azerbaijani bahamian bahraini bangladeshi barbadian belarusian belgian belizean beninese bhutanese "
    "bolivian bosnian botswanan brazilian british bruneian bulgarian burmese burundian cambodian cameroonian "
    "canadian chadian chilean chinese colombian comoran congolese croatian cuban cypriot czech danish "
    "djiboutian dominican dutch ecuadorian ecuadorean egyptian emirati english eritrean estonian ethiopian "
    "european fijian filipino finnish french gabonese gambian georgian german ghanaian greek greenlandic "
    "greenlander grenadian guatemalan guinean guyanese haitian honduran hungarian icelandic icelander indian "
    "indonesian iranian iraqi irish israeli italian ivorian jamaican japanese jordanian kazakh kenyan korean "
    "kosovar kuwaiti kyrgyz laotian latvian lebanese liberian libyan lithuanian luxembourgish macedonian "
    "malagasy malawian malaysian malian maltese mauritanian mauritian mexican moldovan mongolian montenegrin "
    "moroccan mozambican namibian nepalese nepali nicaraguan nigerian nigerien norwegian omani pakistani "
    "palestinian panamanian paraguayan peruvian polish portuguese qatari romanian russian rwandan saudi "
    "scottish senegalese serbian singaporean slovak slovakian slovene slovenian somali sudanese spanish "
    "surinamese swazi swedish swiss syrian taiwanese tajik tanzanian thai togolese tongan trinidadian "
    "tunisian turkish turkmen ugandan ukrainian uruguayan uzbek vanuatuan venezuelan vietnamese welsh yemeni "
    "zambian zimbabwean african asian arab jewish muslim christian catholic protestant hindu buddhist sikh "
    "sunni shia shiite mormon lutheran orthodox anglican methodist baptist presbyterian hispanic latino "
    "latina caucasian kurdish basque catalan republican democrat conservative socialist communist liberal "
    "swede dane finn norwegian pole turk spaniard scot briton englishman frenchman irishman welshman "
    "dutchman afrikaner maori inuit roma tibetan uyghur hausa yoruba zulu xhosa"
)
CONTINENTS: Final = _words(
    "africa asia europe antarctica oceania america australia scandinavia balkans caribbean"
)

MORE_GIVEN_NAMES: Final = _words(
    "jožef matej gregor luka nejc žiga blaž rok jure tilen anže aljaž urban uroš tadej primož sašo boštjan "
    "aleš miha mojca nataša polona petra maja nika eva tina katja urška barbara mateja andreja jana ana "
    "irena vesna darja simona alenka metka meta saša klara neža zala lara tjaša đoko djevad esat vehbija "
    "amadeo milenko dragan zoran goran nenad mirko branko slobodan dušan miloš bojan ljiljana snežana jelena "
    "marija dragana mirjana biljana gordana akifumi haruto yuto sota yuki hayato haruki ryusei koki sora "
    "riku kaito asuka sakura yui aoi hina rin mei mio takashi hiroshi kenji kazuo akira naoki satoshi yoko "
    "keiko emi tomoko ayumi chiyo soib ravil bekbolat ushurma bulat timur ruslan aslan zelimkhan ramzan "
    "shamil movladi akhmed magomed umar usman khadija zarema zulai maha fatima aisha ahmed mohammed muhammad "
    "mohamed ali hassan hussein omar khalid ibrahim yusuf youssef mustafa abdullah abdul karim tariq samir "
    "nabil walid rania leila layla nour amal salma yasmin chinedu chidi emeka obinna ngozi adaeze ifeoma "
    "kwame kofi ama abena wei ming jing li xiu ying hua jun feng lei hong yan minh anh linh huong thanh tuan "
    "hung dung nguyen priya rahul amit sanjay rajesh vijay anil sunil deepak ravi sunita anita kavita pooja "
    "neha arjun rohan aditya ananya isha yaco yorgos giorgos dimitris kostas nikos eleni maria katerina zizi "
    "julcsa koppány gyala brosca minik aputsiaq malik inuk pipaluk ivalu nivi aviaja hansine selam sölvi "
    "aantje jildau sietske femke sjoerd wietse maaike jelle douwe tjitske"
)

TECHNICAL: Final = _words(
    "nan meta emin perm alt utf grep max min per mille baz foo bar qux spam eggs rho phi psi chi xi mu nu "
    "tau del ulong dword cvs svn hig gmt utc python unicode linux posix windows unix ascii java javascript "
    "perl ruby rust tcl django flask jupyter numpy pandas boolean gaussian bayesian fourier cartesian "
    "gregorian julian euclidean markov huffman latin cyrillic greek hebrew arabic ubuntu debian fedora "
    "android google github gitlab apple intel microsoft amazon oracle apache mozilla firefox chrome safari "
    "solaris cygwin darwin berkeley cambridge oxford berne heap pickle decimal fraction counter ordered dict "
    "thread lock queue event timer barrier semaphore process manager pool server client handler parser "
    "formatter logger error exception warning namespace module class object type iterator generator token "
    "node tree element attribute option argument parameter callback decorator wrapper proxy stream buffer "
    "reader writer codec monty cython pypy conda anaconda travis jenkins docker kubernetes ansible vagrant "
    "redis mongo postgres sphinx idle tkinter curses expat ned page title none true false self todo note "
    "example examples usage returns raises yields see args kwargs copyright license author authors version "
    "date name names type value default key keys item items list tuple set string bytes integer float "
    "complex number array index table column row field record file files path directory folder ok cancel yes "
    "no windows macintosh mac macos ios sun bell ada pascal haskell scala swift kotlin delphi lisp scheme "
    "prolog erlang elixir clojure julia groovy fortran cobol basic abc elf"
)
"""Capitalised words of technical text that lists of names or places hold too; alone they name nobody."""

JOB_HEADS: Final = _words(
    "accountant actor actress administrator adviser advisor agent analyst animator announcer appraiser "
    "architect artist assembler assessor assistant astronaut athlete attendant attorney auditor author baker "
    "barber bartender biologist bookkeeper broker builder buyer captain caregiver caretaker carpenter "
    "cashier chef chemist chiropractor clerk coach collector composer conductor consultant contractor "
    "controller cook coordinator counselor counsellor courier curator dancer dealer dentist designer "
    "detective developer dietitian director dispatcher diver doctor driver economist editor educator "
    "electrician engineer estimator examiner executive farmer firefighter fisher fitter florist foreman "
    "forester fumigator gardener geographer geologist glazier guard guide hairdresser handler historian "
    "hostess hygienist illustrator inspector installer instructor interpreter interviewer investigator "
    "janitor jeweler journalist judge laborer lawyer lecturer librarian locksmith machinist manager marketer "
    "mason mechanic mediator merchandiser merchant midwife miner model musician nurse nutritionist officer "
    "operator optician optometrist painter paralegal paramedic pathologist pharmacist photographer physician "
    "physicist pilot planner plasterer plumber podiatrist porter postman president principal printer "
    "producer professor programmer proofreader prosthetist psychiatrist psychologist receptionist recruiter "
    "referee repairer reporter representative researcher roofer sailor salesman salesperson scientist scout "
    "screener sculptor secretary singer soldier solicitor sonographer specialist statistician stenographer "
    "steward stewardess superintendent supervisor surgeon surveyor tailor teacher technician technologist "
    "teller tester therapist trader trainer translator treasurer tutor typist umpire undertaker underwriter "
    "upholsterer usher vet veterinarian waiter waitress warden watchman weaver welder worker writer "
    "zoologist cleaner distributor aide helper hand loader packer picker sorter setter tender grader cutter "
    "presser finisher polisher crossing marshal bailiff echocardiographer radiographer audiologist "
    "dermatologist cardiologist neurologist oncologist pediatrician"
)
"""Last words of a job's name."""
