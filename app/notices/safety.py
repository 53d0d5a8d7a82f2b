"""Notices before an answer: emergencies, self-harm and personal dosing requests, found by the rules written out below and nothing else.

`find(question)` says what a reader should be told first. A notice needs two things: words for what is happening (`EMERGENCIES`,
`SELF_HARM`, `DOSES`), and signs that it happens to somebody now (`SOMEBODY`, `URGENT`) and is no lesson, vignette, memory or
worry (`LESSON`, `PAST`, `SUPPOSED`, ...). An exam question about the same disease has the first and lacks the second.

How to read a rule: each line is one rule; `&` joins groups of words that must stand near each other, in any order; `|` separates words of
which one is enough; `pain*` is any word that begins so; `...` stands for up to three words; `#` a digit, `[5-9]` one of these; `_drug_`
is any of `MEDICINE`, `_many_` a large number of pills, other `_names_` stand in `CLASSES`; `not x` is "isn't x" too; an indented line
goes on with the rule above it. Case and apostrophes do not matter, and words of many spellings have one (`SPELLINGS`): "can't" and
"unable to" are written cant.

What the rules do not cover: languages other than English, spelling far from usual, pictures of speech that name no symptom, what was
said in earlier turns, emergencies not listed here. A clinician's question about "a patient" gets no notice, unless the
patient is "here", "in front of me" or "just" fell ill. No notice means nothing: these rules warn, they do not judge how ill somebody
is. Measured by `make safety`.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise, product
from typing import Literal

Kind = Literal["emergency", "self_harm", "dosing"]

NOTICES: dict[Kind, str] = {
    "emergency": (
        "This may be an emergency. Call the local emergency number first (112, 911, 999 or 000, depending on where you are) and do what "
        "they tell you; do not wait for an answer here."
    ),
    "self_harm": (
        "It sounds as if things are very hard right now, and you do not have to carry this alone. If there is danger at this moment, call "
        "the local emergency number. You can talk to somebody now: in the US and Canada call or text 988, in the UK and Ireland call "
        "116 123, in Australia 13 11 14; findahelpline.com lists other countries. Or tell somebody near you."
    ),
    "dosing": "A dose for a person depends on things that this page does not know. Ask a pharmacist or doctor, or read the leaflet, first.",
}
WITHHELD = "This question gets no answer here. Please talk to somebody first: the notice says where."


@dataclass(frozen=True)
class Finding:
    """Something that the reader should be told before the answer.

    Attributes:
        text: The notice.
        withholds: The question gets no answer: it asks how to do harm.
    """

    kind: Kind
    text: str
    withholds: bool = False


# ---- What is happening ----

# Classes of words that several rules name.
CLASSES = """
_self_ = myself|himself|herself|themselves|themself|yourself|hisself
_ill_ = faint*|dizzy|giddy|gone down|went down|lightheaded|collaps*|pass out|passed out|passing out|black out|blacked out|blacking out|keel*
    |confus*|muddled|delirious|drows*|sleepy|nodding off|dozing|out of it|clammy|cold sweat*|sweat*|pale|gone white|ashen|grey|gray|blue
    |mottled|vomit*|throwing up|threw up|been sick|being sick|breathless|short of breath|cant breath*|breath*|gasping|wheez*|floppy|limp
    |unconscious|unrespons*|mumbl*|slurr*|cant stand|weak|shivering|twitch*
_child_ = baby|newborn|infant|toddler|son|daughter|child|kid|kids|little one|little boy|little girl|little lad|boy|girl|grandson
    |granddaughter|nephew|niece|month old|months old|year old|week old|weeks old|day old|days old
_pain_ = pain*|hurt*|ache*|aching|agony|agoni*|stabbing|excruciating|sore|burning|cramp*
_unbearable_ = severe*|agony|agoni*|unbearable|excruciating|worst|unreal|terrible|awful|horrible|so bad|really bad|cant stand|cant move
    |out of proportion|screaming|doubled over|on the floor|gone white
_sudden_ = sudden*|all of a sudden|out of nowhere|just now|just|an hour ago|minutes ago|since this morning|this morning|this afternoon
    |tonight|last night|woke up|funny turn|happening again|last hour|since lunch|today
_may_ = can i|can my|can he|can she|can we|can they|can our|can a|can an|can the|can his|can her|could i|could my|could he|could she
    |could we|could the|should i|should my|should he|should she|should we|may i|may my|shall i|am i|would i|would it|might i|i can|i should
    |i could|she can|he can|be used
_took_ = took|taken|taking|swallowed|swallows|swallow|ate|eaten|drank|drunk|had|given|gave|gulped|downed|sipped|chugged|ingested|injected
    |chewed
_pills_ = pills|tablets|tablet|pill|medicine*|medication*|meds|painkillers|antidepressants|sleepers|capsules|insulin
_gun_ = gun|rifle|shotgun|pistol|revolver|firearm
_height_ = bridge|bridges|cliff*|rooftop*|roof|balcony|ledge|platform|train tracks|railway|railings|viaduct|overpass|tall building*
    |high building*|multi storey|car park|## floor|#th floor|##th floor|#rd floor|top floor
"""

EMERGENCIES = """
# heart
chest*|breastbone|sternum & pain*|hurt*|ache*|aching|pressure|tight*|crush*|squeez*|heavy|heaviness|burning|stabbing|elephant|vice|vise
    |weight|gripping|clutch*|rubbing|discomfort|spreading|radiating
indigestion|heartburn & crushing|arm|jaw|sweat*|clammy
left arm|both arms|jaw|shoulder blades & numb*|ache|aching|hurt*|pain*|heavy|tingl* & sweat*|clammy|breath*|nause*|grey|gray|dizzy|sick
    |faint
heart attack|cardiac arrest|stroke|anaphyla*|sepsis|septic|aneurysm|meningitis|pulmonary embol*|preeclampsia|allergic reaction & am i having
    |im having|is having|hes having|shes having|are having|might be having|could be having|having a|i think|thinks|might be|could this be
    |could it be|is this|is it|happening|looks like|feels like|going into|gone into|going septic
heart & stopped|not beating
no pulse|cant find ... pulse|cant feel ... pulse|doesnt have a pulse|in cardiac arrest
ripping|tearing & chest|back|belly|stomach|shoulder blades
cold and clammy|clammy|ashen|gone grey|gone gray|drenched in sweat|sweating buckets|cold sweat* & arm|chest|jaw|breath*|faint*|pain*
    |pressure
blood pressure|bp & 19*|20*|21*|22*|23*|24* & headache*|vision|chest|breath*|dizzy|blurr*|double|confus*|numb*
pulse|heart rate|heart is going|heart going|beating at & 16*|17*|18*|19*|20*|30|32|34|35|36|38 & dizzy|faint*|chest|breath*|weak|pass out
    |passing out|black out
# stroke and head
face|mouth|smile|cheek|eyelid & droop*|sag*|hanging|lopsided|crooked|slid*|slipp*|wonky|uneven|dropped|pulled down|gone slack|numb|paraly*
    |evenly|lost feeling|asymmetr*|looks weird|looks funny|looks odd|looks strange|twisted
drool* & one side|corner|left|right|side of
arm & drift*|keeps dropping|keeps falling|useless & left|right|one|face|smile|suddenly
double vision|seeing double|stagger*|stumbl*|veering|walk straight|stand up straight|off balance|wobbl*|jelly & sudden*|all of a sudden
    |jumbled|slur*|one leg|vomit*|headache|since this morning|hit
jumbled|garbled|scrambled|cant understand & saying|talk*|speech|words|speaking
slur*|speech is garbled|talking gibberish|talking nonsense|speaking gibberish|cant get ... words out|words ... jumbled
    |words ... come out wrong|words ... coming out wrong|not making ... sense|making no sense|talking funny|talks funny|talking weird
    |talking strange*|speaking strange*|speech is off|speech sounds|keeps dropping things|cant string|lost ... speech
cant talk|cant speak|stopped talking & sudden*|now|arm|face|side|properly|just|anymore
left arm|right arm|left leg|right leg|left side|right side|left hand|right hand|one side|one arm|one leg|half ... body|half ... face & numb*
    |weak*|limp|cant move|wont move|cant lift|cant raise|wont work|stopped working|not working|floppy|dead|droop*|tingl*
arm|leg|arms|legs & sudden*|all of a sudden|out of nowhere & numb*|weak*|limp|cant move|wont move|gave way|paraly*
vision|sight|see|eye|eyes|blind & sudden*|all of a sudden|just now|an hour ago|minutes ago|this morning & lost|gone|black|blind|cant|nothing
    |curtain|double|dark
gone blind|went blind|cant see out of|lost ... vision|lost ... sight|curtain ... over
eye|eyes|eyeball & hit|hits|poked|punctured|scratched|firework|shot|splash* & leaking|fluid|cant see|blood*|blurr*|gone|pop*
headache|head & thunderclap|exploded|explosive|exploding|worst|splitting and|out of nowhere|sudden*|all of a sudden|like being hit
stiff neck|neck is stiff|neck is so stiff & fever*|light|rash|confus*|feverish|temperature|scream*|sleepy|vomit*
headache|head & stiff neck|neck is stiff|neck is so stiff|cant bend ... neck|cant touch ... chin|light hurts
confus*|disorient*|doesnt know where|doesnt know who|doesnt recogni*|delirious|incoherent|muddled|rambling|not herself|not himself
    |hallucinat*|out of it & sudden*|all of a sudden|just|now|fever*|temperature|fell|head|insulin|sugar|shiver*|infection|sun|heat|today
    |urine|uti
head|skull|temple|forehead & hit|hits|banged|bumped|cracked|smacked|fell|fall|knock*|dropped & vomit*|throwing up|threw up|puk*|sick|sleepy
    |drows*|confus*|passed out|knocked out|pupil*|fluid|unconsc*|blood thinner*|warfarin|wont wake|slurr*|seeing double|weird|funny
    |eyes open
fell|fall|fallen|dropped|crash*|knocked|came off|thrown off|tackled|collided & vomit*|throwing up|threw up|puk*|drows*|confus*|sleepy
    |passed out|unconsc*|wont wake|slurr*|not moving
pupil* & bigger|different|unequal|blown|huge
# breathing and allergy
cant ... breath*|cant breath*|barely breath*|hardly breath*|not breath*|doesnt breath*|stopped breath*|stops breath*|no longer breath*
high pitched|whistling|crowing|seal|barking & breath*|inhal*
too breathless|so breathless|too out of breath|panting|hunched|tripod & talk*|speak*|asthma|sats|oxygen|rest|sitting|sentence*
struggl*|trouble|difficulty|breathing hard|hard|fighting|gasping|labo*red|harder|problems & breath*|air
cant catch|cant get|cant draw|out of|short of & breath|air
gasping|suffocating|stridor|air hunger
breath* & really fast|very fast|so fast|rapid*|shallow|grunting|ribs|sucking in|noisy|strange noise|squeak*
choking|choked & on|is|im|hes|shes|my|keeps|now|help|cant|still|blue|food
stuck in ... throat|stuck in ... airway|lodged in ... throat|caught in ... throat & cough*|breath*|cant|blue|drool*|chok*
turn* blue|going blue|gone blue|went blue|lips ... blue|blue lips|face ... blue|blue around ... mouth|turn* purple|going purple
    |lips ... purple|turn* grey|turn* gray|gone grey|gone gray|grey skin|bluish
throat|airway|windpipe & clos*|swell*|swollen|tighten*|tight|puff*|shut
tongue|lips|lip|face|eyes & swell*|swollen|puff*|balloon*|twice its size|blowing up|blown up
hives|rash|welts|itch* & breath*|wheez*|throat|tongue|lips|faint*|dizzy|vomit*|swollen|swell*|collapsed
stung|sting|peanut*|nut|nuts|cashew*|shellfish|prawn*|shrimp|penicillin|antibiotic|amoxicillin|bee|wasp|hornet|bitten|allergic|allergy
    |contrast dye & swell*|swollen|wheez*|cant breath*|tongue|hives|welts|faint*|dizzy|collapsed|vomit*|passed out|throat is|puff*
epipen|epi pen|adrenaline pen|autoinjector & used|gave|given|jabbed|after|dont have|expired
cant finish ... sentence|cant complete ... sentence|cant say ... sentence|one word at a time|couple of words|few words at a time
    |few words out
inhaler|puffer|nebuli*|salbutamol|ventolin & not doing|doing nothing|did nothing|used up|no help|not working|doesnt work|not helping
    |doesnt help|no effect|wont|empty|ran out|run out|no relief|nothing|not touching
asthma & bad|severe|worst|cant|attack & only whisper|whisper*|now|breath*|inhaler|talk|speak|sentence*|blue
sucking in|caving in|pulling in|grunting|flaring & ribs|chest|breath*|baby|newborn|infant|skin|neck|nostrils
drool*|cant swallow|muffled & fever*|breath*|throat|voice|swollen|coin|swallowed
oxygen|o2|sats|spo2|saturation|oximeter & 6*|7*|80|81|82|83|84|85|86|87|88
went down the wrong way|swallowed wrong|went down wrong & cant|blue|breath*|still|cough*
# bleeding and injury
bleed*|blood|nosebleed & wont stop|cant stop|not stopping|doesnt stop|never stops|keeps coming|everywhere|spurt*|squirt*|gush*|pour*|pump*
    |pool*|soak*|heav*|profuse*|a lot of|lots of|so much|too much|massive*|for an hour|over an hour|for hours|an hour now|blood thinner*
    |warfarin|half an hour|minutes now|through ... towel*|through ... pad*|through ... bandage*|badly|heavily
vomit*|throw* up|threw up|cough* up|puk*|spit* up|bringing up|brought up & blood*|coffee ground*|clots
stool*|poo*|poop* & black|tarry|tar|full of blood|bright red & dizzy|faint*|weak|pale|vomit*|blood thinner*|clammy
stabbed|been shot|got shot|gunshot|impaled|cut ... artery|hit an artery|cut ... vein|severed|amputated|chopped ... off|cut off ... finger*
    |cut ... finger off|sliced ... off|bone ... sticking out|bone is showing|bone coming out|through the skin
hit by a car|hit by a truck|hit by a bus|run over|car crash|car accident|motorbike crash|motorcycle accident|fell off the roof
    |fell off a roof|fell off a ladder|fell off the ladder|fell from a|fell down the stairs|fell out of a window & is|cant|wont|now|bleed*
    |hurt*|head|back|neck|legs|just|not
cant feel|cant move|numb|tingl*|pins and needles & legs|toes|feet|arms & fell|accident|crash|neck|back|diving|dived|dove|groin|bladder|pee
cant pee|cant urinate|wet myself|lost control ... bladder|incontinent|soiled & numb*|back|legs|saddle|groin
drown*|underwater|under the water|pulled ... pool|pulled ... water|electrocuted|struck by lightning|hanging from|live wire|shock from
    |shocked by|electric shock
burn|burns|burned|burnt|scald*|boiling|hot oil|hot tea|hot coffee|hot water|kettle|acid|bleach|chemical|alkali|lye|caustic|drain cleaner
    |petrol|gasoline|ammonia|cement|oven cleaner & face|eye|eyes|blister*|whole|big|large|badly|all over|skin ... off|peeling|arm|legs
    |throat|chest|swallow*|drank|drunk
soup|coffee|tea|oil|pan|pot|water|grease|kettle & hot|boiling & himself|herself|myself|itself|onto|all over|over his|over her|over my|face
    |chest|scald*
kicked|punched|steering wheel|handlebar*|stepped on & stomach|belly|abdomen|side|ribs & hard|pain*|swollen|vomit*|pale
soak* & through|everything|towel*|bandage*|pad|pads & cut|blood|bleed*|wound|pregnan*|gash|having the baby|had the baby|birth|minutes
    |an hour|miscarr*
gash|deep cut|deep wound & gaping|bone|artery|see fat|wont close|neck|spurt*|soak*
snake|adder|viper|cobra|rattlesnake|copperhead|black widow|brown recluse|jellyfish & bit|bitten|bite|stung
been hit by a car|got hit by a|just got hit by|was just hit by|hit by a train|trapped under|crushed by|crushed under
chainsaw|circular saw|table saw|machete|axe|angle grinder|lawnmower|nail gun|power saw & cut*|into|hand|leg|thigh|foot|finger*|through|arm
nail|knife|stick|glass|screwdriver|metal|fence|pole|arrow|bullet & stuck in|through his|through her|through my|in my eye|in his eye
    |in her eye|sticking out of
rattlesnake|snake|viper|cobra|scorpion & got me|got my|got him|got her|struck|nipped
# poisoning
overdos*|od|odd|oding|ods & took|taken|on|think|has|have|pills|tablets|heroin|opioid*|paracetamol|tylenol|insulin|medication*|meds|may|might
    |just|accident*
took|taken|swallowed|ate|eaten|swallows|drank|drunk|gulped|downed|ingested|chewed|got into|chugged|sipped & whole bottle|bottle of|too many
    |too much|handful|whole box|whole packet|entire|all of my|all of her|all of his|all my|all his|all her|battery|batteries|magnet*|bleach
    |antifreeze|screen wash|windscreen wash|washer fluid|windshield fluid|de icer|detergent|_many_|cleaner|cleaning fluid|chemical*|poison*
    |acid|perfume|sanitizer|sanitiser|glue|dettol|whole month*|months worth|weeks worth|months supply|kerosene|laundry pod*|dishwasher
    |rat poison|weedkiller|weed killer|pesticide|paraquat|methanol|lamp oil|petrol|white spirit|turpentine|drain cleaner|mushroom*|berries
    |nicotine|vape|edible*|twice the|three times the|ten times|10 times|several times|rest of the|whole week*|a load of|loads of|a bunch of
    |lots of
swallowed|ate|eaten|chewed|got into|gotten into|got hold of|sucking on & pills|tablets|medicine|medication*|meds|tylenol|paracetamol|iron
    |vitamins|contraceptive*|cleaning|bleach|coin|glue
overdosed|overdosing|is oding|hes odd on
empty bottle|empty packet|empty pack|empty blister*|empty box|pill bottle & pills|tablets|drows*|sleepy|wont|unrespons*|sleeping
insulin & twice|double|wrong|too much|extra & sweat*|shak*|mumbl*|confus*|drows*|sleepy|low|faint*
methotrexate|warfarin|lithium|digoxin|blood thinner*|chemo* & ulcers|bruis*|bleed*|shak*|confus*|yellow|halos|vomit* & every day|twice
    |too much|too many|wrong|accidentally|double*
stopped drinking|quit drinking|alcohol withdraw*|detox* & shaking|hallucinat*|seeing things|seizure|sweating|confus*
battery|magnet* & nose|ear|swallow*|stomach|mouth
carbon monoxide|co alarm|co detector|gas leak|fumes|mixed bleach|soot|house fire|breathed in smoke|inhaled smoke & headache*|dizzy|sick
    |nause*|cough*|cant|breath*|faint*|confus*|feel*|hoarse|wont wake|alarm is|alarm went|alarm going|alarm has|alarm keeps|beeping
fentanyl|heroin|oxy|opioid*|methadone|drunk|alcohol|drinking|vodka|xanax|ghb & wont wake|not waking|cant wake|blue|not breath*|barely
    |snoring|gurgl*|unrespons*|passed out|unconsc*
snorted|mdma|ecstasy|molly|cocaine|coke|meth|ketamine|spice|bad pill|edible* & burning up|rigid|seeing things|chest|fitting|wont wake|blue
    |boiling hot|heart
seizure*|fit|fits|convuls* & having|has|had|just|still|wont stop|keeps|going on|minutes|pregnan*|never|first|now|another|in a row
seizing|convulsing|fitting|jerking all over|shaking all over|shaking violently|shaking uncontrollabl*|body is jerking|twitching all over
    |eyes rolled|just seized|seized again
# not awake
unconsc*|unrespons*|not respon*|wont respond|doesnt respond|no response|cant wake|wont wake|not waking|cant be woken|hard to wake
    |impossible to wake|difficult to wake|cant rouse|doesnt wake|not conscious|barely conscious|drifting in and out|in and out of conscious*
    |lifeless|hasnt woken|wont rouse|wont come round|barely respon*|hardly respon*|barely awake
passed out|collaps*|blacked out|fainted|keeled over|dropped to the floor|lying on the floor|went down & just|now|is|and|while|in front|cant
    |wont|again|not|sudden*|still|keeps
# children and infection
baby|newborn|infant|toddler|son|daughter|child|kid|little one|month old|months old|week old|weeks old|year old & floppy|limp|mottled
    |not feeding|not drinking|feels cold|soft spot|wont feed|wont drink|no wet|not peeing|hasnt peed|dry nappy|dry nappies|dry diaper*
    |sunken|bulging|grunting|blue|pale|listless|lethargic|barely moving|wont stop screaming|high pitched|hard to wake|wont wake|too sleepy
    |very sleepy|unusually sleepy|not waking|breathing fast|stiff neck
newborn|days old|day old|week old|weeks old|one month old|1 month old|two month old|2 month old & fever*|temp|temperature|hot|38*|39*|40*
    |100*|101*|102*|103*|104*
rash|spots|dots|blotches & doesnt fade|dont fade|wont fade|not fading|dont disappear|doesnt disappear|dont go away when|doesnt go away when
    |glass|tumbler|press*|purple|spreading fast|fever*|temperature & fever*|temperature|glass|tumbler|press*|child|baby|son|daughter
    |spreading|hot|drows*|sleepy|ill|unwell|purple
fever*|temperature|infect*|flu|chills|rigors|shivering & confus*|muddled|rambling|not herself|not himself|mottled|floppy|stiff neck|clammy
    |hands are freezing|fast heart*|racing|breathing fast|breathless|hardly peeing|not peeing|hasnt peed|cold hands|blotchy|limp|delirious
    |light hurts|hallucinat*
chemo*|transplant|no spleen|neutropeni*|immunosuppress* & fever*|temperature|38*|39*|101*|102*|103*|shiver*|chills|rigors
# pregnancy and birth
pregnan*|weeks along|weeks gone|trimester|gave birth|postpartum|after birth|miscarr* & bleed*|losing blood|gushing|seizure*|fit|fitting
    |convuls*|headache|seeing spots|flashing lights|blurry|blurred|seeing stars|vision|swollen|swelling|under ... ribs|upper belly
    |blood pressure ... high|bp|severe pain|bad pain|terrible pain|sharp pain|awful pain|agony|faint*|passed out|collapsed|stopped moving
    |not moving|havent felt|hasnt moved|not kicking|no kicks|stopped kicking|not felt|breath*|shoulder|soaked|clot*
baby ... coming|head ... crowning|crowning|see the head|cord ... out|cord ... hanging|cord ... neck|waters broke|water broke|giving birth
    |in labour|in labor|waters have|water has|into labour|into labor & now|right now|weeks|car|home|cord|green|bleed*|taxi|bathroom|help
    |cant
contractions & every minute|minutes apart|minute apart|two minutes|2 minutes|head|push*|bearing down
feel the head|feel the babys head|needs to push|urge to push
kick*|moved|movements|moving & hasnt|havent|no|stopped|less|fewer & weeks|baby|pregnan*|bump
cord ... hanging|cord ... coming out|cord came out|baby is coming now|afterbirth
baby & stopped moving|not moving|hasnt moved|havent felt|stopped kicking|no kicks & pregnan*|womb|belly|weeks|today|all day|since|hours
    |inside
# belly, sugar, heat, other
stomach|belly|abdom*|tummy & rigid|hard as|board|worst pain|excruciating|agony|unbearable|severe*|doubled over|screaming|sudden*
right side|lower right|bottom right & pain|stabbing|agony & fever*|vomit*|cant walk|cant stand|cant straighten
wet diaper*|wet nappy|wet nappies|peed & hasnt|none|no|not since|since yesterday|hours & baby|toddler|son|daughter|child|newborn|month*
sugar|glucose|insulin|diabetic|diabetes|type 1|type one|ketones & unconsc*|confus*|passed out|wont wake|shaking|sweating|vomit*|throwing up
    |fruity|acetone|sleepy|drows*|breathing fast|cant keep|unrespons*|too low|very low|dropping|ketones|not making sense|in the 30s
    |in the 40s|says lo|says hi|says high|being sick
hypo & cant|confus*|wont|drows*|unconsc*|swallow|shaking
calf|leg & swollen|painful|sore|clot & breath*|chest|cough* blood
stopped sweating|heatstroke|heat stroke|been in the sun|in the heat|heat wave|hot car|sauna|marathon & confus*|faint*|collaps*|hot|vomit*
    |wont wake|stumbling|not making sense|dizzy|unconsc*|temperature|is
hypothermi*|freezing|found ... in the snow|fell through ice|fell in ... water & stopped shivering|confus*|slurr*|blue|unconsc*|drows*
    |wont wake|stiff
# Wider: people who describe what they see, in other words than the lines above.
chest & standing on|sitting on|sat on|parked on|stood on|ton weight|squash*|band round|band around|on his chest|on my chest|on her chest
heart|heartbeat|pulse & out of rhythm|irregular*|all over the place|skipping|jumping|racing|pounding|odd|stopping & _ill_
pulse|heart rate|hr|heart is doing|hearts doing|heart is at|heartbeat & 1[6-9]#|15#|2##|2#|3# & _ill_|wont come down|wont slow|wont settle
pacemaker|defibrillator|icd & shock*|blacking out|keeps going off|pulse|faint*|collaps*|fired
bp [4-8]#|bp is [4-8]#|bp of [4-8]#|blood pressure [4-8]#|blood pressure is [4-8]#|blood pressure of [4-8]#|[4-8]# systolic|systolic [4-8]#
    |hypotensive|bp dropping|bp ... unrecordable
resps|resp rate|respiratory rate|breathing & 3#|4#|5#|30 times|40 times
mouth|face|lip|smile|cheek & to one side|wont work|wont move|cant smile|pulling|gone funny|dribbl*|fallen
speech|talk*|speak*|words|voice|sentences & gibberish|rubbish|nonsense|garbled|jumbled|slur*|scrambl*|mumbl*|mixed up|gone funny
    |gone ... funny|all funny|out wrong|not clear|cant ... clearly|weird|odd|wont come|slow and thick
cant read|cant understand|cant find ... words|cant get ... words & _sudden_
balance|leaning|falling|veering & to the left|to the right|to one side|lost ... balance & _sudden_
half ... vision|half ... sight|part of ... vision|half of what & gone|vanish*|missing|lost|black|dark|cant see
curtain|shadow|veil|shutter|everything & eye|vision|sight & over|down|across|spreading|went dark|went black|gone dark|gone black
eye & _sudden_|red & halo*|_unbearable_ & _pain_|sick|vomit*|blurr*
eye|eyes & flew|went in|stuck in|splash*|sprayed|squirted & cant see|cant open|blurr*|_pain_|blood*|burn*
hand|arm|leg|foot|side|fingers & dead|cant hold|cant grip|useless|clumsy|dropp*|wont do what|cant lift|weak* & _sudden_
numb*|cant feel|no feeling|lost feeling|lost ... feeling|no sensation & wipe|down below|bottom|bum|saddle|groin|between ... legs|private*
    |genital*|bowel*|bladder|wee|pee|urin*
back & cant control ... bladder|cant control ... bowels|cant wee|cant pee|wetting myself|soiling myself|cant hold ... pee
cant wee|cant pee|cant urinate|cant pass ... urine|cant pass ... water|not peed|not passed|catheter & huge|swollen|bloated|all day|for a day
    |hours|bursting|blocked|_unbearable_|no urine
pulled|fished|dragged|hauled|scooped|rescued|got him out|got her out|got them out & pool|lake|river|sea|canal|pond|bath|water|surf
went under|was under|under water|face down|nearly drowned|almost drowned & pool|lake|river|sea|canal|pond|bath|water|cough*|sleepy|minute
grape|food|sweet|coin|marble|bone|meat|steak|something|toy|lego|peanut|sausage|apple|carrot|bread|bead|piece of & stuck|lodged|caught
    |inhaled|breathed in|wrong way|chok*|mouth & noise|sound|silent|blue|talk|breath*|gag*|drool*|cant swallow|throat|airway|wheez*
clutch*|holding|grabbing|grabs|hands round|hands around & throat|his neck|her neck|their neck & sound|talk|noise|breath*|purple|blue|eating
cant make ... noise|cant make ... sound|gone silent|went silent & stuck|eating|throat|swallow*|chok*
double|twice|two lots|three times|four times|three lots|too many|too much|wrong|all of & _took_ & _pills_|dose & drows*|dizzy|sleepy
    |nodding off|faint*|collaps*|confus*|slow|vomit*|breath*|passed out
_child_ & _pills_|cabinet|cupboard|handbag|inhaler|cleaner|bottle & open|missing|empty|got into|got at|been at|been in|been into|sucked
    |not sure how many|dont know how many|how many he|how many she|playing with|in his mouth|in her mouth
_took_ & brake fluid|engine oil|screenwash|toilet cleaner|slug pellets|wild mushrooms|wild berries|foxglove|essential oil|super glue
    |hair dye|nail varnish remover|swimming pool chemical*|caustic soda|unknown pills|mothballs|rodent poison|firelighter*
insulin|novorapid|humalog|lantus|rapid acting|long acting & _took_|jabbed & double|wrong|instead of|too much|times|units too
hernia|lump in ... groin|lump & wont go in|wont go back|cant push|rock hard|gone hard|purple|stuck & vomit*|being sick|hard|_pain_|purple
trach|tracheostomy|breathing tube|laryngectomy & out|blocked|fell|come|came|cant|struggl*
feeding tube|peg|stoma|fistula|drain|picc|central line|wound|stitches|incision|c section & bleed*|opened|burst|come apart|came apart
    |split open|insides|guts|pouring
addison*|adrenal|steroid dependent|hydrocortisone|hypopit* & vomit*|cant keep|kept ... down|keep ... down|being sick|tummy bug|weak|collaps*
    |faint*|crisis
skin|hands|feet|legs|fingers|lips & mottled|blotchy|ice cold|icy|freezing|purple|blue & fever*|temperature|hot|burning up|infection|flu
    |breathing|wake|confus*|shiver*|sleepy
headache*|dizzy|sick|nause*|faint*|sleepy & boiler|gas fire|gas heater|heater|generator|stove|alarm|bbq|barbecue|charcoal|exhaust
    |wood burner & all|everyone|everybody|family|we|weve|us|both|house|flat|tent|caravan
cold|freezing|icy & floor|outside|snow|water|heating|garden|river|mountain & mumbl*|hardly talk*|barely talk*|hardly speak*|not shivering
    |not even shivering|stopped shivering|slurr*|drows*|confus*|all night|stiff
leg|arm|thigh|ankle|elbow|wrist|foot|knee|shoulder|finger|hip & bent|wrong way|wrong angle|horrible angle|funny angle|weird angle|odd angle
    |strange angle|deformed|backwards|popped out|out of its socket
bone & sticking|poking|showing|through|can see|see the
finger*|hand|toe*|thumb|arm|foot|ear|nose|leg & cut off|ripped off|torn off|bitten off|chopped off|sliced off|crushed|mangled|caught in
    |trapped in|hanging by
knife|nail|glass|stick|metal|scissors|arrow|railing & in ... stomach|in ... chest|in ... neck|in ... back|in ... leg|in ... thigh
    |in ... head
fell|fall|fallen|came off|thrown|dived|crash*|accident|tackled|landed & cant feel|numb|tingl*|cant move|neck ... hurt*|neck & back|neck|legs
    |arms|waist|ladder|scaffold*|horse|bike|roof|foot
strangled|strangling|strangle|choked me|hands around ... neck|hands round ... neck & swallow*|voice|dizzy|passed out|neck|hoarse|breath*
peeing|pee|urine|weeing|wee & pure blood|blood clots|blood & _ill_|cant
bleed*|blood & bottom|rectum|back passage|toilet|bowl|stool*|poo & full|lots|loads|pouring|bright red|clots|_ill_
itch*|hives|rash|bumps|lumps|blotch*|flush* & voice|croaky|hoarse|throat|tongue|wheez*|tight
tongue|lips|throat|face & too big|huge|enormous|thick|ballooning|puffed|double the size|twice the size
epipen|epi pen|auto injector & still|wheez*|again|worse|second
_child_ & 38.#|39.#|40.#|hot|fever*|temp|temperature & # week*|# weeks|# day*|two week*|three week*|newborn|one month|1 month|2 month
    |two month
_child_|screaming|legs|knees & jelly|jam|blood & nappy|nappies|diaper*|poo
green & vomit*|throwing up|being sick & _child_
temperature|fever|feverish|headache & light hurts|cant bear ... light|hates ... light|bright light|light ... eyes|cant put ... chin|chin
sugar|sugars|glucose|meter|bm|hypo & 1.#|2.#|says hi|says lo|in the 30s|3# & _ill_|cant swallow|wont swallow|talking|thirsty|cant
pear drops|fruity|acetone|nail polish|nail varnish & breath*|diabet*|sugar|vomit*
drinking|drinker|drink|alcoholic|alcohol|booze & stopped|quit|no drink|without a drink|cold turkey & shak*|spiders|seeing things|sees
    |hallucinat*|fit|seizure|insects|bugs
pills|mdma|ecstasy|molly|speed|rave|festival|party & boiling|overheat*|jaw|burning up|fitting|wont wake|blue|snoring|collaps*
neck|jaw|throat|face|mouth & swollen|swelling|swell*|lump & cant open|cant swallow|drool*|muffled|breath*
redness|redder|red|cut|wound|bite|skin|leg|infection & by the hour|red streak*|purple|spreading|black|blister* & _unbearable_|fast|fever*
pulsing|pulsating|throbbing & belly|stomach|abdom*|tummy & _ill_|_pain_
stomach|belly|tummy|abdom* & _pain_ & _unbearable_|rigid|hard as|hard like|came on like|touched
erection|priapism|hard on & hours|wont go down|since|cant get rid
seizure*|fit|fits|convuls* & lasted|lasting|minutes|three|several|back to back|one after another|second|in a row
shaking|jerking|stiff & eyes & rolled|rolling|white|back
cpr|compressions|rescue breaths|aed & collapsed|not breathing|isnt breathing|no pulse|unconscious|lifeless|on him|on her|my dad|my mum
pesticide|insecticide|weedkiller|spray*|crops|organophosphate & sweat*|drool*|saliva|pupil*|vomit*|twitch*|streaming|breath*
sickle|sickle cell & chest|breath*|fever*|temperature|weak*|erection|sats|oxygen
took|taken|swallowed|drank|drunk|injected & pills|tablets|overdose|_drug_ & want to die|hoping|on purpose|deliberately|end it
    |dont want to be
cord|rope|loop & hanging|coming out|poking|sticking|dangling|between & water*|labour|labor|weeks|baby|pregnan*
baby ... coming|having the baby|having her baby|having our baby|crowning & now|car|floor|bathroom|taxi|toilet|alone|help
2# weeks|3# weeks|4# weeks|pregnan*|bump & cant feel ... mov*|cant feel ... kick*
2# weeks|3# weeks|4# weeks|## weeks pregnant|# weeks pregnant|weeks gone|pregnan* & spots|flashing|puffy|swollen|headache|bleed*|water*
    |gush*|no movement*|not moved|quiet & baby|_unbearable_|spots|lights|hands|face|vision|pad|pads|gone|broke|broken|leak*|clot*|blood
    |kick*|today|yesterday|hours
burn*|burnt|burned|scald* & white|cant feel|charred|leathery|black|blister* & hand|arm|leg|face|foot|chest|back|child|_child_
fire|flames|explosion|firework|petrol|acid|boiling & burn*|burnt|burned|alight|caught & face|hands|body|clothes|hair|chest|legs
dived|diving|diver|surfaced|scuba & joint*|numb|tingl*|_ill_|rash|weak*
testic*|ball|one ball|balls|scrot* & _pain_|higher|twisted|swollen & _sudden_|_ill_|_unbearable_|higher
jellyfish|spider|snake|scorpion|octopus|adder|bluebottle & _ill_|swelling|eyelid*|cramp*|breath*|bit|bitten|chest|speak*|tight
potassium|sodium|haemoglobin|hemoglobin|lactate|glucose|troponin & told|ring|phone|called|rang|came back & 7.#|6.[5-9]|critical|urgent*
    |raised
lip|lips|mouth & hanging|droop*|sag* & _sudden_|one side|cant|down
no strength|no power|lost power|lost ... strength|gone weak & left|right|one side|side|arm|leg
palpitation*|heart & gone down|went down|hit the floor|dropped|collaps*
lips|mouth|tongue|throat & tingl*|itch*|numb|burning & after|ate|eating|eaten|prawn*|nut|nuts|sting|stung|kiwi
allerg* & eaten|ate|swallowed|stung|just had & cough*|wheez*|swell*|hives|vomit*|rash|itch*|breath*
inhalers|inhaler|puffer & run out|ran out|empty|nothing left|lost & wheez*|breath*|tight|asthma
cut|gash|wound & deep|badly & wont stop|bleed*|numb|white|blood|bone|tendon
head & _sudden_|hit|banged|rolled off|fell|bumped & forget*|keeps asking|repeating|memory|soft lump|soft swelling|glazed
acid|lye|bleach|caustic*|cement & spill*|spilt|splash*|sprayed|all over & hand|hands|skin|leg|arm|eye|eyes|face|me
cup of tea|cup of coffee|hot drink|kettle|saucepan & over & _child_|herself|himself|me|myself
_child_ & mouth|swallowed|eaten|drunk|drank|licked|ate & flea|cat|dog|poison|pesticide|cream|spirit|nicotine|plant|berr*
_took_ & six of|seven of|eight of|nine of|ten of|twelve of|twenty of|1# of|2# of|3# of|4# of|8 of|9 of|6 of|7 of & _pills_|_drug_
hasnt weed|hasnt peed|not weed|no wee|not had a wee|no wet & _child_|vomit*|since|yesterday|hours|urine
rash|spots|marks|blotches & bruis*|purple|blood spots & spreading|fast|fever*|hot|_ill_
wound|operation|surgery|stitches & hot|pus|red|infect* & rambling|confus*|shiver*|fever*|fast|clammy
eye|eyes|vision & gone black|gone dark|gone blind|went black|went dark|gone completely
flashes|floaters|flashing & shadow|curtain|veil
lithium|digoxin & being sick|vomit*|throwing up|shaky|shak*|drows*|confus*|blurr*|slurr*
smell gas|gas smell|smell of gas & faint|_ill_|headache|house|feel|kitchen
stung|stings & ## times|many times|loads|all over|swarm|dozens
frostbite|frostbitten|toes|fingers & black|white and numb|gone white|blue & cold|numb|snow|frost*|hard
fell on|fallen on|landed on|rolled onto|rolled over|toppled|came down on & tree|wall|quad|tractor|car|branch|horse|forklift|wardrobe|tv
    |telly
bleed* & dialysis|fistula|stump|from ... ear|from ... ears|from ... neck|varicose|tonsil*|operation
pulses|pulsing & bulge|lump|belly|tummy|stomach
finger*|thumb|toe|ear & hanging off|half off|come off|hanging by
slumped|slumps|slumping & dribbl*|droop*|sideways|wont|cant|mouth|arm|grey|not
heart & explode|burst|giving out & seeing black|_ill_|vision|pain*
bone|pin|needle|glass|toothpick & swallowed|throat|stuck & blood|spitting|cant swallow|drool*|pain*
jaw & lock*|cant open & stiff|arch*|spasm*|nail|wound|rusty
throat|windpipe & hit|kicked|punched|elbow*|kneed & voice|breath*|swallow*|swell*
rolled off|fell off|fell out & drows*|vomit*|sleepy|floppy|unconscious|confus*
bitten|bite|bit|scratched & bat|rabid|monkey|raccoon
leg|arm|foot|hand & white|cold|pale|numb & pain*|agony & _sudden_
bleed* & for ... hours|for hours|all day|wont clot
confus*|drows*|rambling & yellow|jaundice*
"""

SELF_HARM = """
kill|killed|killing|kills|hang|hanging|drown|shoot|end|ending|harm|harming|hurting|cutting|burning|starving|poison|overdose|gassing|shooting
    |drowning|poisoning|stabbing|punching|hitting|suffocat* & myself|himself|herself|themselves|themself|my life|his life|her life
    |their life|yourself
cutting|slashing|slashed|carving & herself|himself|myself|her arms|his arms|my arms|wrist*|her legs|his legs|my legs|thighs|relapsed
    |months clean|weeks clean|days clean
cuts|marks|scars|burns & arm*|wrist*|thigh*|legs & did it|herself|himself|myself|hid*|long sleeves|on purpose
hurt|cut|burn|burned|burnt|burning|scratch|scratched|punish|slit & myself|my arms|my wrists|my thighs|my skin & on purpose|deliberate*|want
    |urge*|again|cope|when i feel|feel so|feel something|stress*|release|relief|deserve|cant stop|ashamed|guilty|secret|no one knows|upset
    |angry|calm*|cigarette*|lighter
hit|hitting|bang*|punch* & my head|the wall|a wall|walls & until it|upset|angry|on purpose|cope|stress*
suicid*|self harm*|selfharm*|unalive*|kms|ctb|end it|end it all|ending it all|end everything|finish it all|take my own life
    |taking my own life|take her own life|take his own life|took my own life|ending things|make it all stop|off myself|top myself
    |end my suffering|goodbye note|goodbye letter|said goodbye to everyone|last goodbye*|final letter|given away ... things
    |giving away ... things
do something to myself|do something stupid|do something bad to myself|might hurt myself|going to hurt myself|want to hurt myself
    |keep myself safe|safe from myself|dont trust myself|not safe with myself|danger to myself|im not safe|no one needs me|want to be gone
    |gone for good|gone forever|no way out|only way out|no other way out|way out for me|no escape
want*|wish*|rather|ready|planning|plan|hope|hoping|tempted|deserve* & die|dead|i was dead|not exist|disappear forever|never wake up
    |not wake up|not be here|never been born|cease to exist|be with ... in heaven|hadnt been born|go to sleep forever|go to sleep and not
    |fade away|not wake|stop existing|fall asleep and never|not been born|would all end|would all just end|it was all over
think*|thought*|dream*|fantasi*|decid*|tried|attempt*|talk*|imagin*|obsess*|urge*|threat*|scared i might|afraid i will|says|said|told
    |text* & of dying|about dying|about death|of death|suicid*|overdosing|to overdose|of ending|about ending|to end things|to end it
    |ending things|about being dead|going to jump|want to jump|going to do it|going to hurt|wont be here|wont be around|cant go on
    |doesnt want to be here|dont want to be here
dont|didnt|doesnt|not|no longer|cant|stop|never & want to live|want to be alive|want to be here|want to exist|want to wake up|want to go on
    |keep living|go on living|go on like this|go on anymore|see tomorrow|be around anymore|see the point of living|keep going anymore
    |take it anymore|be on this earth|do life|face another day|live like this|do this anymore|deserve to live
around|here & much longer|for long|after tonight|this time tomorrow & by choice|my choice|my own terms|goodbye|sorry
no reason|nothing|no point|pointless|not worth|point of|point in|point to|purpose in|reason to|reason for|will to|desire to|motivation to
    |cant see the point|see a future & to live|live for|in living|of living|to go on|going on|living|being alive|be alive|being here
    |to carry on|carrying on|to exist|existing|keep going
tired of|sick of|done with|fed up with|hate|exhausted by|cant bear|cant stand|cant face & living|being alive|life|my life|existing
    |this world|being here|another day
life|living|existence|everything & not worth|meaningless|pointless|hopeless|no meaning|unbearable|feels empty
dont care|doesnt matter|wont mind|cant care & live or die|if i die|if i died|if i wake up|whether i live|if i got hit|wake up|if i live
burden & everyone|everybody|my family|my kids|my husband|my wife|my parents|everyone else|to them|to you
no one & miss me|miss him|miss her|notice if i|notice i|care if i|care if im|care if she|care if he|care if they|would care|would notice
    |would even
bought|have|got|loaded|found|hid & rope|noose|gun|stockpil* & end|ready|use|plan|tonight|head|myself|do it
i have a plan|ive a plan|ive got a plan|he has a plan|she has a plan|made a plan & the pills|my pills|the tablets|the means|the rope|a gun
    |the date|the place
gun|rope|noose|knife|pistol & on himself|on herself|on myself|on themselves|to my head|to his head|to her head|in my mouth|to my wrist*
    |on my wrist*
slit*|razor*|blade*|scissors|lighter & wrist*|her arms|his arms|my arm*|my thigh*|my skin|my leg*|on myself|my pillow
belt|rope|noose|sheet & round ... neck|around ... neck
overdos*|swallow*|took|taken|taking|drank|drunk|ate|injected|od|crash* & on purpose|deliberate*|intentional*|want to die|want to be dead
    |dont want to wake|dont want to be here
overdos*|od|took pills|took tablets|swallowed & broke up|left her|left him|our fight|an argument|a row
pain|suffering|it|everything & to end|to stop & gone|good|forever|permanently|just want|be over
saving up|stockpil*|hoard*|saved up|lined up & pills|tablets|meds|medication|_drug_
given away|giving away|gave away|sorted out|settled|put & my will|my affairs|affairs in order|my things|my dog|my cat|my stuff|belongings
    |possessions & time|ready|goodbye|soon|tonight|peace|wont need
give up on|giving up on|given up on & life|living|everything|myself
better off & without me|dead|if i wasnt|if i were gone|if i was gone|without him|without her
left|wrote|found & a note|his note|her note & gone|missing|goodbye|phone|do it
jump*|step*|throw*|run*|walk*|driv* & balcony|cliff|overpass|in front of a train|in front of a bus|off the roof|off a building
    |in front of a car|into traffic|tracks|under a train|motorway|into the sea|into the river|viaduct|off ... bridge|from ... bridge|ledge
    |out ... window|from ... window|off ... roof|from ... roof|the ##th floor|the #th floor|the top floor
painless|quickest|easiest|peaceful|quick & death|suicide
looking up|looked up|look up|search*|googl* & tall building*|high building*|bridges|ways to end|ways to die|how to die|painless|train times
    |nooses|knots
standing|stood|sitting|stand|sit & bridge|ledge|roof|balcony|cliff|platform|railing*|tracks|edge of the & looking down|look down|jump*
    |thinking|urge|pull|how high|over the edge
driv*|crash*|swerv*|steer* & into a tree|into a wall|off a cliff|off a bridge|into oncoming|off the road|into traffic & think*|thought|want
    |feel like|urge|tempted|imagin*
family|everyone|everybody|kids|children|they|world|people|husband|wife|parents & happier|better|easier|relieved|fine & i was gone|without me
    |i wasnt|i werent|i were gone|i died|i disappeared|i didnt exist|i was dead|im gone
pills|tablets|meds|insulin|bottle & in front of me|take them all|taking them all|all at once|at once|taking all|take all|all of them & going
    |want*|think*|thought*|might|tempted|plan*|about to|urge|ready
decided|going to|time to|ready to|planning to|plan to|want to|about to & end things|leave this world|leave this life|leave everyone forever
    |be with ... again in heaven|join ... in heaven
worthless|hopeless|empty|broken|trapped|numb & die|dying|death|dead|cant go on|live
cant cope|cant go on|cant carry on|cant keep going|cant keep living|cant face & anymore|forever|life|living|like this
want|need|wish & it all to stop|everything to stop|it to be over|it all to be over|it all to end|everything to end|it to end
    |to be at peace forever|the world to end for me
voice|voices & tell*|say*|order* & kill|hurt|die|jump|harm|end
love*|miss* & goodbye|forgive me|wont be here|wont be around|not be around
inject* & himself|herself|themselves|myself & potassium|propofol|lethal|fatal|overdose
still alive|still here|im alive & why am i|wish i wasnt|hate that|disappoint*|sorry i
# Wider: hints, means at hand, farewells, and what others notice.
no|lost|losing|gone & will to live|will to go on|will to carry on
hung|hanged|hangs|gassed|poisoned|drowned|shot|stabbed & _self_
finish myself|finish himself|finish herself|finishing myself|do myself in|doing myself in|did himself in|did herself in|do himself in
    |do herself in|off himself|off herself|top himself|top herself|topped himself|topped herself
hope*|hoping|pray*|wish*|wont mind|wont care|dont mind|dont care|want*|would be nice|dream & bus|car|truck|lorry|train|plane|lightning
    |cancer|heart attack|accident|tumour|something & hit*|ran me over|run me over|runs me over|crash*|go down|goes down|take me|takes me
    |kill*|get me
hope*|hoping|pray*|wish*|want*|praying|like to|if only & not wake|wont wake|dont wake|didnt wake|never wake|not waking|never waking
    |wake up ever|go to sleep and
why & bother & wak*|living|anymore|getting up|going on|being here|alive
im|hes|shes|sitting|sat|standing|stood & on the ledge|on a ledge|edge of ... roof|edge of ... cliff|edge of ... platform|edge of ... bridge
    |wrong side of ... railing*
_height_ & tempt*|climb*|stepping closer|step off|stepping off|throw myself|tide times|jump|jumped|googl*|drawn|closer to the edge|go over
    |let go & i|im|ive|he|she|they|me
into & tree|wall|lorry|truck|oncoming|traffic|river|bridge & turn the wheel|driv*|steer*|swerv*|crash*|wheel|car & easy|tempt*|talk*|think*
    |thought*|want*|urge|keep*|says
looking at|look at|staring at|sitting with|holding|counting|counted|laid out|lined up|gazing at|hid|hidden|hiding|stash* & _gun_|knife
    |knives|rope|noose|pills|tablets|morphine|razor*|blades|bleach|insulin|sleeping
bought|ordered|got hold of|getting hold of|taken ... out|cleaning|loaded|has got|got hold & rope|noose|_gun_|helium|nembutal
garage|car|engine|exhaust|hose & engine running|leave it running|leaving it running|hosepipe|locked himself|locked herself|locked myself
    |running
locked|barricaded|shut & _self_ & knife|_gun_|pills|tablets|rope|blade|garage|engine|razor*
looks like an accident|look like an accident|pass it off as an accident & do it|make it|way|how|my kids|family|die|over|myself
insurance & suicide|do it myself|kill*|if i die|end my|end it & me|myself|i|my
written|wrote|left|writing & letters|a letter|a note|notes & sorted|will|hurt|hid*|pills|end|tonight|ready|gone|car|phone|kids|enough|sock
text*|messag*|rang|called|phoned|sent|said|posted & goodbye|sorry for everything|forgive|look after ... dog|look after ... cat|say sorry
    |look after ... kids|better without & off|gone|pick* up|picking up|answer*|missing|world|driven|reach|repl*|weird|disappear*|pills
goodbye everyone|goodbye world|goodbye all|bye everyone|bye world|by the time you read|the end for me|last message|tonight is the night
    |tonights the night|wont be here next|wont be here by|wont be here at|dont see myself being here|wont see christmas|not be here next
    |had enough of life|had enough of living|enough of this life|sick of life|done with life|done with everything|done with it all
    |lost the point|point of it all|no future|way forward|cant see a future|cant see any future|no light at|im on the bridge
    |hes on the bridge|shes on the bridge|im on the roof|hes on the roof|shes on the roof|nothing left for me|cutting again|started cutting
    |self injur*|urge to cut|cut again|want to disappear|should ... disappear|id use on myself|use on myself|what i might do
    |what im capable of|trust myself|nothing keeps me|nothing to stay for|want out of life|want out of this life|end my life|end matters
    |finish my life|end my existence|quit life|leave this world
whats|what is|is there & the point anymore|the point of anything|the point of me|any point anymore|the use anymore|any point in me
chosen|picked|set|fixed|decided|made up my mind & a date|the date|my date|sunday|monday|tuesday|wednesday|thursday|friday|saturday|tonight
    |the day & ready|go|end|took|die|tell|goodbye|night|do it
made peace|at peace|calm & funeral|letters|will|goodbye|tonight|ready|plan|it
ready to go|want to go|time to go|time for her to go|time for him to go|had ... life|good innings & join|be with|eat*|chosen|enough|heaven
    |took|die|dead
join|be with & late wife|late husband|in heaven|my mum|my dad|my wife|my husband|my son|my daughter|her|him|grandad|gran|mum|dad & want*
    |ready|wish*|going to & died|heaven|passed|late|go|drawer|pills|again|nothing
stop eating|stopped eating|wont eat|refus* & die|ready to go|join|had enough|time|dead
nearly did it|almost did it|tried to do it|came close to doing it|going to do it|do it tonight|doing it tonight & night|tonight|week|knows
    |note|stopped|yesterday|pills
rows of|cuts|cut|lines|slashes|marks|scratches & up her|up his|on her|on his|up my|her arms|his arms|her thighs|forearm* & found|seen|saw
    |showed|shows|noticed|look|promise*|sleeves|hiding|rows|all over
cut|cuts|slit|slits|slashed|slashing & wrists
bite|biting|pull*|pick*|scratch*|burn*|starv*|hit|hitting|bang*|punch*|hurt|cutting & myself|my skin|my arms|my legs|my head|my thighs
    |my hair|my hand & till ... bleed*|until ... bleed*|only thing that helps|it helps|numb|stressed|punish*|deserve|feel alive
_took_|overdos* & fight|row|argument|argued|broke up|say sorry|end|be saved|hoping|find me|in laws|failed exam|want to die
    |dont want to be & pills|tablets|strip|overdos*|morphine|weedkiller|bleach|pesticide|poison|vodka|prescription|medic*|insulin|box|_drug_
took an overdose|taken an overdose|overdosed on purpose|overdose on purpose|tried to overdose
didnt work|had worked|it worked|woke up|survived|still alive|pulled through & gutted|wish|disappointed|sorry|regret|hoping & overdos*|pills
    |it|hospital|did|took|morphine
would anyone find|anyone even find|would find me|will find me|finds me|find my body|until someone finds|find me before
deserve* better than me|deserve* a better|better with another mother|better with a different|better with another|better without me
    |happier with me gone|with me gone|happier without me|fine without|better off without|better without him|better without her
a burden|just a burden|too much of a burden & im|shes|hes|says|saying|feel*|being|am
thoughts of|thinking about|think about|images of|urge to|urges to & stabbing|hanging|jumping|crashing|drowning|shooting|cutting & myself
    |my own|off|it
voice|voices & want* & me|him|her
throw*|fling|hurl|strangle|strangling|smother|stab|suffocat*|drown*|starve|electrocut* & _self_
cuts & on my|in my & making|make|started|doing|done|keep
hit myself|punch myself|slap myself|bite myself|hurt myself|burn myself|cut myself & when|because|wrong|upset|stress*|angry|deserve|again
    |keep
razor|blade|blades|knife|_gun_|rope|pills|tablets|bottle & in my hand|next to me|in front of me|on the table|beside me & want|thinking
    |going to|use|take|taking|stare|staring|end
reason|point|purpose|will|desire & stay alive|staying alive
wish|wished & was never born|never been born|i had died|id died|who died|died instead|could die|would die|was the one|id been the one
waste of oxygen|waste of space|better dead|better off dead|rather be dead|god please take me|take me in my sleep|god take me|god to take me
    |lord take me|regret surviving|planning my death|planning my suicide|my own death|give up on life|cant live with myself|over it all
    |cant be bothered living|dont belong here|no longer want to live|done living|finished with life|checking out for good|sleep forever
threat*|going to|about to|hed|shed & jump* & window|balcony|bridge|roof|off|building|ledge|train
threat* & jump*|do it|overdose|kill|cut|harm & himself|herself|jump|if i|unless|she|he
cut|cuts|slit|slash* & his throat|her throat|my throat|their throat|own throat
think*|thought & how i would do it|how id do it|ways to do it|how to do it|doing it|when i would do it & keep|always|lot|constantly|about
took|taken|swallowed & pills|tablets|overdos*|_many_ & goodbye|sorry|bye|forgive
googl*|looking up|looked up|search* & how many pills|how many tablets|overdos*|lethal|painless|how to die|ways to
will i|would i|going to & see christmas|see another|be here for|live to see & dont want|not going to|doubt i|wont
life & over|pointless|too hard|too much|unbearable|a joke & cant|want it|end|anymore|done
thoughts|thinking|thought|think & not existing|not being here|not being alive|being dead|ending everything
only thing stopping me|only reason im still|only thing keeping me|if i had the courage|too scared to do it|too much of a coward|my last day
    |worth staying for|see myself getting old|wont be around for|wont make it to|a noose|feel like ending everything|just end everything
easier|better|simpler & for everyone|for them|for my family|for you all & didnt wake|dont wake|wasnt|werent|vanish*|disappear*|gone
sorry when|miss me when|happy when & hes dead|shes dead|im dead|hes gone|shes gone|im gone
took|taken|swallowed & too many|pills|tablets|overdose & cant cope|upset|cant take|cant go on|cry for help
rehears*|practis*|practic* & do it|doing it|in my head|dying
"""

# Asks for the means: such a question gets no answer.
METHOD = """
how do i|how to|how deep & slit|cut my wrist*|cut a vein|tie a noose|hang myself
painless|quickest|easiest|peaceful|least painful|surest|fastest & way to die|ways to die|way to end it|way to kill
painless|least painful & way to go
how long|does it hurt|would it hurt|will it hurt|is it quick|is it painful & to die|to bleed out|to suffocate|to drown|to hang & hanging
    |wrist*|overdos*|pills|carbon monoxide|jump*|drown*|bleed out|suffocat*|cutting
how many|how much|what dose|which|painless|quickest|easiest|peaceful|least painful|best way|surest|fastest|how do i|how can i|how to|ways to
    |would it take|enough|would|is it quick|what dosage|lethal|fatal & kill me|kill myself|killing myself|to die|lethal dose|fatal dose
    |end my life|ending my life|never wake up|end it all|hang myself|unalive*|die from an overdose|be dead|to end it|finish me|hang yourself
lethal|fatal|deadly & pills|tablets|drug|drugs|dose|amount|combination|_drug_ & for me|for myself|my weight|my size
take|swallow|inject & all of these|all of them|all these|all of my|_many_ & will i die|would i die|kill me
do me in|see me off|finish me|finish me off|finish myself|stop my heart|kill me & pill*|tablet*|which|what|would|anything|over the counter
    |could
which|what|is there|are there & poison*|pill*|tablet*|meds|medic*|chemical*|household|drug* & untraceable|cant be traced|undetect*
    |without pain|im done|if i took|had enough|do me in|kill me
would i|will i|id & die|survive|dead|be killed & jump*|fell off|floor|bridge|stor*|overdos*|took
how high|what height|how tall|how far & to die|to fall|jump|fall & die|kill|dead|certain
how many|how much|what dose|how long until|how long before & kill you|kills you|stop your heart|stop my heart|for good|kill yourself
    |be fatal for me & beta blockers|sleeping pills|pills|tablets|carbon monoxide|exhaust|_drug_|hang*|gas
is|does|would|will|how painful & drowning|hanging|to jump|bleeding out|suffocating|jumping & painful|hurt|quick|peaceful|painless
inject*|syringe|needle & air & vein|artery|blood|myself|quick
where can i|where do i|how can i|how do i|where to|buy|get hold|order & nembutal|pentobarbital|cyanide|helium hood|suicide kit
    |sodium nitrite
quick way|easy way|painless way|peaceful way|easiest way|quickest way|least painful way|what would be & out|to end|end your|to go|to die
    |quick
how many|how much & to overdose|to od|to overdose on
where do i|where to|where should i & cut & die|vein|artery|bleed
high enough|tall enough|deep enough & bridge|building|jump|die|cliff|cut
if i drink|if i swallow|if i inject|if i jump|if i drank & will i die|would i die|kill me|die quick*|die fast
how many|how much & end it|end me|do the job|do it for me & units|pills|tablets|insulin|_drug_
"""

DOSES = """
# Any question or slip about taking a medicine.
_may_|will|do i|must i|ok|safe|safely|allowed|fine|dangerous|bad|clash|how much|how many|how often|how long|how soon|how quick*|how late
    |how slow*|how do i|how would i|when|what dose|best time|too soon|maximum|most|highest|lowest|together|instead|or not|too much|too many
    |need|have to|supposed to|too high|too low|enough|protected|right time & _drug_
took|taken|had|gave|given|put|used|vomit*|threw|brought & twice|two|late|early|wrong|double|extra|again|after|up|empty stomach|on & _drug_
forgot|forgotten|miss|missed|skipped|skip|taper|wean|come off|coming off|get off|swap|switch|move|up|down|drop|raise|halve|split|crush|open
    |stop|quit|cold turkey|wonder|run out|ran out|running low|still need & _drug_
beer|wine|pint|drink|drinks|drinking|alcohol|booze|spirits|prosecco|glass|weed|grapefruit & _drug_
how do i|how should i|how would i|how can i|when do i|when should i|where do i & taper|take|come off|stop|use|wean|inject|space|titrate
    |switch|give
alcohol|wine|beer|drink|drinking|drive|driving|grapefruit|smoke & on|with|while|taking|after|before & can|safe|ok|should|allowed|fine
husbands|wifes|friends|mums|moms|dads|sisters|brothers|someone elses|leftover|expired|out of date|old|dogs|ran out|run out & use|take|taking
    |share|until|borrow|can i|should i|ok|start|do i
what happens|what if|what would happen & take|took|mix|miss|skip|double|stop
lower|reduce|increase|raise|change|adjust|cut down|cut back|go up on|go down on|bump & _drug_|dose
how much|how many|what dose|which dose|what dosage|what is the dose|right dose|correct dose|dose|dosage|max|maximum|safe amount & take
    |taking|give|giving|inject|use|have|need|put|swallow|apply|safely|for me|for my|should i|can i|do i|she can have|he can have|my size
    |my weight|my age|someone my
can|could|would|should|may|shall|is it ok*|ok|safe|fine|dangerous|bad|allowed & take|taking|give|giving|mix|mixing|combin*|doubl*|increas*
    |up|rais*|lower*|reduc*|cut|halv*|split|skip*|stop|stopping|stopped|quit|restart*|swap*|switch*|crush*|wean*|taper*|come off|coming off
    |go off|have
spat|spit|vomit*|threw|brought & out|up & _drug_
my dose|dose for me|dose do i|doubled up|dose should i & _drug_|on|of
took|taken|given|gave|had|accidentally & two|twice|2x|an extra|double|extra|too much|wrong|another|second|in the morning|at night|too early
    |too late|accidentally & dose|doses|pill|pills|tablet*|_drug_
how often|how long|every how|when|how soon|how far apart|how late & take|give|another|next dose|again|keep taking|stop taking|stay on|use
    |wait|between
"""

# Medicines whose names do not show it, as counters in the UK and Ireland, North America, Australia and India know them.
_BRANDS = """
abilify actifed adalat advair aerius afrin aldactone alendronic aleve alka allegra alprax amitriptyline anadin anastrozole aptamil
arimidex aripiprazole arthrotec asacol ashwagandha atarax ativan atorva atrovent augmentin avamys avil azithral bactrim beclometasone
beconase bendroflumethiazide benylin betadine betaloc betnovate bisacodyl bisoprolol boniva bonjela botox brexidol brilinta brufen
buccastem budesonide buscopan buspar buspirone byetta caffeine calamine calcium calprofen canesten cannabis carbamazepine carbimazole
cefalexin ceftin celebrex celexa celin cellcept cerazette cetzine champix chloramphenicol chlorphenamine chlorpheniramine cialis cipralex
cipro ciproflox citalopram claritine clarityn clexane clomid clozapine clozaril codral cofsils colace combiflam combivent compazine concor
corenza coversyl cozaar creatine crestor crocin cuprofen cyclizine cyclogest daktarin dalacin daonil dapoxetine deltacortril dexamethasone
dexamfetamine dexedrine dexilant dextromethorphan diclomol digene dilantin dioralyte diovan dolo domperidone domstal donepezil dristan
dulcolax duloxetine duphaston ebastine echinacea ecosprin effexor elocon elthroxin eltroxin elvanse enbrel enoxaparin entresto epilim
erenumab escitalopram evion ezetimibe famvir farxiga femara fentora ferrous fexofenadine fioricet flagyl flexeril flixonase flixotide
flomax flonase flovent flucloxacillin folic forxiga fosamax fostair fucidin fybogel galpharm galvus gemtesa ginkgo ginseng gliclazide
glimepiride glyciphage glycomet gtn humalog humira humulin hydralazine hydrocodone hydroxyzine hytrin ibugesic ibuleve imdur imigran
imovane indapamide inderal insulatard invega isosorbide janumet januvia jardiance kalms keflex kenalog klaricid kwells lactulose lamisil
lansoprazole lantus latuda laxido lemsip letrozole levemir levitra lipitor liraglutide lisinopril livial loestrin lomotil lopressor losec
lunesta luvox lyclear macrobid marevan maxalt maxolon mebeverine medrol meftal melatonin meloxicam metamucil metoclopramide microgynon
midol migraleve minipill mirapex mirena mobic modafinil monistat montair montek motilium movicol nardil nasonex nebilet neurontin
nexplanon nicorette nicotine nicotinell nitro nitrofurantoin nitroglycerin norethisterone noriday norvasc novolog novorapid nucoxia
nuedexta nuelin nurofen nytol oilatum olanzapine omega ondansetron ondem optrex otrivine oxybutynin oxynorm palexia panadeine pantocid
pariet parnate paxil paxlovid pedialyte pepcid pepto periactin phenergan piriteze pradaxa pregaday premarin prevacid prilosec prinivil
probiotics procardia prograf prolia promethazine propecia provera provigil qsymia quetiapine qulipta ramelteon ranexa reactine relpax
remeron remicade rennie requip restoril retinoid rexulti rhinocort risperdal risperidone ritalin rivotril roaccutane robaxin rybelsus
saxenda serc seretide seroquel sevredol sinemet singulair skelaxin solpadeine solpadol sominex spiriva stelazine stemetil stilnox
strattera strepsils stugeron sulfasalazine sumycin symbicort tagrisso tamiflu tamoxifen tamsulosin targinact tavegyl tegretol telfast
temazepam temgesic tenormin theraflu thyronorm tinidazole tizanidine topamax topiramate toujeo tranexamic trelegy tresiba tritace
trulicity tums turmeric ultracet ultram uniflu unisom urispas utrogestan valerian valtrex varenicline vermox viagra victoza vimpat volini
voltaren voltarol voveran vytorin warticon xenical xyzal yasmin yaz zaleplon zantac zapain zestril zetia zevalin ziprasidone zirtek zocor
zofran zoladex zomig zomorph zyban zyloprim zyprexa zyrtec
"""
_BRAND = "|".join(_BRANDS.split())

# Every dosing rule also needs a medicine, or a unit of one.
MEDICINE = re.compile(
    r"\b(?:\w+(?:cillin|mycin|micin|oxacin|cycline|azole|prazole|pril|sartan|olol|dipine|statin|gliptin|gliflozin|glutide|formin|zepam|"
    r"zolam|"
    r"lam|codone|morphone|morph|triptyline|oxetine|traline|pram|faxine|azine|pentin|gabalin|barbital|profen|coxib|parin|xaban|gatran|"
    r"setron|"
    r"triptan|sone|solone|(?<!\ba)lone|(?<!choles)terol|tidine|thiazide|semide|mab|vir|zosin|asteride|afil|caine|phylline|thyroxine|"
    r"phen|idone|apine|dopa|lukast)s?|"
    r"\d+ ?(?:mg|mgs|milligrams?|mcg|micrograms?|ml|mls|cc|grams?|g|units?|iu|tablets?|pills?|caps(?:ule)?s?|puffs?|drops)|"
    r"doses?|dosage|units of|how many units|(?:can|could|should) (?:i|we|he|she) (?:take|have|use) for|gaviscon|oramorph|"
    rf"{_BRAND}|"
    r"statins?|opioids?|beta blockers?|diuretics?|ppis?|ssris?|nsaids?|puffers?|water (?:tablets?|pills?)|pills?|tablets?|"
    r"tabs|capsules?|medicines?|medications?|meds|drugs?|antibiotics?|painkillers?|pain (?:killers?|relievers?)|"
    r"sleeping pills|antidepressants?|blood thinners?|antihistamines?|steroids?|insulin|inhaler|puffs|injection|syrup|suppositor\w+|"
    r"patch(?:es)?|eye ?drops|birth control|contraceptives?|the pill|morning after pill|hormones?|vitamin \w+|vitamins|supplements?|"
    r"paracetamol|acetaminophen|tylenol|panadol|calpol|advil|motrin|nurofen|aleve|naproxen|aspirin|ecotrin|excedrin|nyquil|dayquil|"
    r"benadryl|diphenhydramine|zyrtec|cetirizine|claritin|loratadine|piriton|melatonin|warfarin|coumadin|eliquis|xarelto|plavix|"
    r"clopidogrel|digoxin|amiodarone|lithium|lamictal|lamotrigine|depakote|valproate|keppra|levetiracetam|methotrexate|prednisone|"
    r"ozempic|wegovy|mounjaro|xanax|valium|ativan|klonopin|ambien|zopiclone|zolpidem|trazodone|mirtazapine|bupropion|wellbutrin|prozac|"
    r"zoloft|lexapro|sertraline|cymbalta|adderall|ritalin|vyvanse|concerta|tramadol|codeine|morphine|oxycodone|oxycontin|percocet|"
    r"vicodin|norco|methadone|suboxone|fentanyl|gabapentin|lyrica|synthroid|metformin|glucophage|lasix|potassium|iron|magnesium|zinc|"
    r"viagra|cialis|ventolin|salbutamol|albuterol|symbicort|epipen|adrenaline|loperamide|imodium|omeprazole|nexium|zantac|pepto\w*|"
    r"laxatives?|senna|miralax|ors|cough (?:syrup|medicine|mixture)|decongestants?|sudafed|mucinex|robitussin|cbd|ivermectin|"
    r"hydroxychloroquine|colchicine|allopurinol|spironolactone|accutane|isotretinoin|finasteride|minoxidil|retinol|nicotine gum|"
    r"night nurse|day nurse|st johns? wort|hrt|cocp|ibu|"
    r"co ?(?:codamol|dydramol|amoxiclav|beneldopa|careldopa|trimoxazole|proxamol)|z ?pack?|cough drops?|lozenges?|sachets?|dosette|"
    r"(?<!ice )creams?|ointments?|gels?|(?:nasal )?sprays?|eardrops|pessar\w+|jabs?|inhalers|preventer|reliever|(?:my|the|s) mini pill|"
    r"epi ?pen|"
    r"cef\w{3,}|sulfa\w*|gli\w{4,}ide|\w+(?:glitazone|dronate|dronic|tinib|ximab|zumab|trexate|sulfate|citrate|chloride|nitrate|mide|"
    r"quine))\b"
)

# ---- Whether it happens, to somebody, now ----

_KIN = (
    r"husband|wife|partner|mom|mum|mam|mother|mama|dad|father|papa|parents?|son|daughter|child|kids?|baby|babys|toddler|newborn|infant|"
    r"brother|sister|bro|sis|twin|gran|granny|grandma|grandmother|nan|nana|grandpa|grandad|granddad|grandfather|grandson|granddaughter|"
    r"aunt|auntie|uncle|cousin|niece|nephew|boyfriend|girlfriend|bf|gf|fianc\w*|friend|friends|mate|buddy|roommate|flatmate|housemate|"
    r"neighbou?rs?|coworker|"
    r"co-worker|colleague|boss|teacher|student|teammate|mother in law|father in law|stepson|stepdaughter|stepdad|stepmom|little (?:one|"
    r"boy|girl)"
)
SOMEBODY = re.compile(
    rf"\b(?:i|im|ive|id|me|ill (?:be|do|go|never|take|have)|my|myself|mine|we|weve|our|both of us|all of us|whole family|everyone in|he|"
    rf"hes|him|his|she|shes|her|theyre|(?:{_KIN})(?:s)? (?:is|has|just|cant|wont|keeps|"
    rf"hasnt|isnt|wasnt|stopped|took|swallowed|ate|drank|fell|got|says|said|hit|had|went|woke|collapsed|fainted|put|cut|with)|"
    r"(?:this|that|the|some|an?|old|young|another) (?:\w+ )?(?:man|woman|guy|lady|girl|boy|kid|child|baby|person|bloke|dude|customer|"
    r"stranger|passenger|"
    r"coworker|colleague|neighbou?r|tourist|runner|player|gentleman|fella|driver|worker)s? (?:\w+ ){0,3}(?:here|next to|beside|"
    r"in front of (?:me|us)|at (?:work|the|my)|on (?:the|my|our)|collapsed|outside|"
    r"in (?:my|our|the)|just|who just|cant|wont)|some(?:one|body) (?:\w+ )?(?:here|just|is|has|in|at|on|next|beside|collapsed|fell|cant|"
    r"wont|took))\b"
)
# What may stand in for a person where one types in a hurry.
# A sentence that begins so leaves out "I".
DROPPED_I = re.compile(
    r"(?:^|[.!?,\n] ?)(?:\d+ weeks|pregnant|living feels|life (?:is|isnt|feels)|been|coughing|coughed|bleeding|vomiting|vomited|"
    r"spitting|peeing|weeing|gave|pulled|"
    r"fished|dragged|put|mixed|mixing|missed|cut|sat|sitting|standing|bought|wrote|goodbye|bye|told to|nearly|almost|tried|came off|had|"
    r"\d+(?: \w+)? (?:year|month|week|day)s? old (?!man|woman|boy|girl|male|female|patient|presents)|(?:seizure|fit|erection|"
    r"priapism|nosebleed|headache|bleeding) (?:has|is|wont|and|for)|"
    r"having|feeling|thinking|cant|cannot|dont|want|"
    r"wanna|just|tired|keep|keeps|woke|took|accidentally|forgot|missed|swallowed|hit|fell|havent|"
    r"throwing|struggling|feel|(?:worker|customer|client|guest|driver|player|guy|man|woman|lady|bloke|lad|kid|boy|girl|someone|"
    r"somebody|resident) (?:fell|has|is|isnt|just|collapsed|took|drank|ate|swallowed|cant|wont|got|went|was|keeps)|"
    rf"(?:\w+ )?(?:{_KIN}) (?!and\b|or\b|mortality\b|health\b|care\b)|"
    r"got|gone into|dislocated|burnt|stung|bitten|found|ate|drank|worst|theres no (?:point|reason|way)|"
    r"whats the (?:point|use)|nothing left|no (?:reason|point) |kms|"
    r"(?:head|chest|throat|face|arm|leg|belly|stomach|tongue|lips|heart|vision|speech|eye|neck|back|skin)s? (?:feels?|hurts?|is|are|"
    r"went|just|started|keeps|has|have|swell\w*|wont|cant))\b"
)
URGENT = re.compile(
    r"\b(?:help|helpp+|its an emergency|is this an emergency|urgent help|asap|hurry|quick|quickly|please|pls|plz|right now|what (?:do|"
    r"should|can) (?:i|we) do|what now|sos|"
    r"is this serious|should i (?:call|go)|do i need (?:to go|an ambulance|the er)|ambulance|911|999|112|er or|wont|cant(?! wait))\b|!!"
)
NOW = re.compile(
    r"\b(?:now|right now|currently|at the moment|today|tonight|this (?:morning|afternoon|evening|minute)|again|still|just|"
    r"(?<!for a )minutes?|min|mins|hours?|suddenly|all of a sudden|since (?:yesterday|last night|this)|yesterday|last night|keeps)\b"
)
PRESENT = re.compile(
    r"\b(?:is|are|am|im|hes|shes|theyre|its|has|have|ive|cant|cannot|wont|isnt|arent|doesnt|dont|keeps?|feels?|hurts?|looks?|\w{3,}ing|"
    r"(?:face|mouth|arm|leg|lips|throat|chest|hand)s? (?:is|are|has))\b"
)
PAST = re.compile(
    r"\b(?:(?:years?|yrs|months?|weeks?|decades?) (?:ago|back|later|earlier)|last (?:year|month|summer|winter|spring|autumn|fall|week|"
    r"christmas|january|february|"
    r"march|april|may|june|july|august|september|october|november|december)|in (?:19|20)\d\d|back in (?:the (?:day|war)|my day|school|"
    r"college|\d)|back when|when (?:i|he|she|"
    r"we) (?:was|were|had)(?! in the (?:bath|shower|garden|kitchen|car))|as a (?:child|kid|teenager|baby|toddler|boy|girl|student)|"
    r"used to|history of|was diagnosed|were diagnosed|recover(?:ed|ing)|survived|previous(?:ly)?|once had|in the past|died of|died from|"
    r"before i was born|passed away|"
    r"since (?:the|his|her|my) (?:stroke|heart attack|surgery|operation|accident)|after (?:his|her|my) (?:stroke|heart attack)|long ago|"
    r"had (?:a|an|his|her|my) (?:\w+ )?(?:stroke|heart attack|seizure) (?:in|at|when|last))\b"
)
# The words before a sign that take it back.
DENIED = re.compile(
    r"\b(?:hop(?:e|ing)|pray(?:ing)?|wish(?:es|ing)?|how much it|will i(?: ever)?|no|not|without|never|denies|havent had|hasnt had|"
    r"dont have|doesnt have|didnt have|isnt having|not having|worried about|"
    r"afraid of|scared of|"
    r"fear of|risk of|chance of|chances of|odds of|prevent|preventing|avoid|avoiding|to stop|in case of|danger of|likely to have|"
    r"signs of|symptoms of|sign of|symptom of|"
    r"causes of|cause of|kinds of|types of|treatment (?:of|for)|managing|difference between|know about|learn about|read about|explain|"
    r"meaning of|called|means|said to (?:have|be)|versus|vs|such as)(?: \w+){0,2} $"
)
# Not happening: somebody learns, teaches, writes or asks about people in general.
LESSON = re.compile(
    r"\bwhen to seek\b|\bshould i (?:know|tell my doctor|store)\b|\bdiagnosis(?: is)?\W*$|\b(?:h o|c o|apgars?) |"
    r"\bwhich of the following\b|\bmost likely\b|\bnext (?:best )?step\b|\bbest (?:initial|next)\b|\b(?:professor|lecturer|tutor|"
    r"instructor|(?<!failed my )(?<!failed the )exam(?! results| stress| season| pressure)|usmle|mcq|mcat|osce|plab|nclex|quiz|"
    r"flashcards?|vignette|homework|assignment|"
    r"essay|coursework|textbook|lecture|curriculum|dissertation|im (?:reading|learning|reviewing) (?:about|up on)|im curious (?:how|why|"
    r"what|about)|(?:preparing|writing|giving|teaching|doing) (?:an?|the|my) (?:\w+ )?(?:talk|essay|paper|report|article|book|lesson|"
    r"lecture|class|research|study|speech|course)|thesis|syllabus|anki)\b|\b(?:studying|revising|revision|med(?:ical)? student|"
    r"nursing student|medical school|"
    r"nursing school|paramedic student|student (?:paramedic|nurse|doctor|midwife)|first aid (?:course|class|training)|"
    r"(?<!in )my (?:class|course|professor|tutor|presentation|"
    r"paper|novel|"
    r"story|screenplay|character|script|blog|article|podcast))\b|"
    r"\bhow many (?:people|deaths|suicides|adults|children|women|men)\b|\bwhat (?:percentage|proportion)\b|\bhow common\b|"
    r"\b(?:in (?:the|a|this) (?:movie|film|book|novel|series|tv show|show|episode|story|game|documentary|podcast|article))\b|"
    r"\b(?:an?|the) (?:previously )?(?:healthy )?(?:[\w-]+ ){0,2}(?:year|month|week|day)[ -]?old (?:[\w-]+ ){0,3}(?:man|woman|boy|girl|"
    r"male|female|patient|infant|child|primigravida|smoker|farmer|athlete|student|neonate|diabetic|gentleman|lady|[a-z]+)\b(?! (?:here|"
    r"next to me))"
    r"(?=.*\b(?:presents?|presented|presenting|brought|admitted|comes to|came to|complains|complaining|diagnosis|emergency department|"
    r"examination|ecg|exam|what is|which|most|develops|history|has|is)\b)|"
    r"\b(?:differential|pathophysiology|mechanism|etiology|aetiology|epidemiology|prognosis|first line|second line|gold standard|"
    r"criteria|pathogenesis|guidelines?)\b"
)
# A case as textbooks begin it: nobody who is near the reader.
VIGNETTE = re.compile(
    rf"^(?:\w+ )?(?:an?|another|one) (?:[\w.]+ ){{0,4}}?(?:man|woman|boy|girl|child|toddler|infant|baby|neonate|newborn|person|adult|"
    rf"teenager|smoker|driver|student|cleaner|farmer|"
    rf"runner|athlete|worker|lady|gentleman|mother|father|male|female|nurse|climber|diver|drinker|{_KIN})\b"
)
NEAR_ME = re.compile(r"\b(?:me|my|im|ive|us|our|we|here|just|right now|help|please|what do i do|what should i do)\b")
# An opener like "my 3 year old" is somebody, a vignette's "a 3-year-old" is nobody.
OWN_CHILD = re.compile(
    r"\b(?:my|our|i have an?|im an?|i am an?|hes|shes|he is|she is)(?: \w+){0,3} (?:\w+[ -])?(?:year|month|week|day)s?[ -]?old\b"
)
PATIENTS = re.compile(
    r"(?<!im a )(?<!i am a )(?<!as a )(?<!heart )(?<!cancer )(?<!dialysis )(?<!transplant )\bpatients?\b(?! (?:here|just|in front of)\b)"
)
SUPPOSED = re.compile(
    r"\b(?:will|might) i (?:ever )?(?:have|get|develop)\b|\bwould [\w ]{1,30} if i (?:took|take|drank|jumped|stopped)\b|"
    r"\b(?:(?<!as )if|when|whenever|in case|suppose|imagine|whether|how (?:do|can|would|could|should) (?:i|you|we|one|people) (?:tell|know|"
    r"recogni[sz]e|spot|identify|distinguish|help|treat|prevent|teach|assess|manage|detect))"
    r"(?: (?:that|if|when|whether))?(?: (?:someone|somebody|anyone|anybody|you|your|people|a|an|one|ever|there|the|my \w+ (?:ever|"
    r"starts?|begins?|were|gets|develops)|i (?:ever|start|were|get|develop|see)|he (?:ever|starts?)|she (?:ever|starts?)))\b"
)
GENERAL = re.compile(
    r"^(?:so |and |ok |hi |hello |please |can you |could you |would you |tell me |also )*(?:what (?:is|are|was|were|causes?|does|do|"
    r"makes?|happens?|kind|type)|which|why (?:is|are|does|do|did|would|can)|"
    r"how (?:is|are|does|do|did|common|long|often|likely|can|dangerous|serious|many people)|who|where|when (?:is|are|was|should|to|does|"
    r"do)|define|describe|explain|list|name|discuss|compare|does|is|are|can|do|i (?:want|would like|need) to (?:know|understand|learn)|"
    r"im (?:curious|wondering|interested))\b"
)
OWN = re.compile(
    r"\b(?:my|im|ive|i have|i am|i feel|i cant|i cannot|i just|i took|i got|he is|she is|hes|shes|he has|she has|he cant|"
    r"she cant|his|her|me|our|this man|this woman|this guy)\b"
)
# The usual form of words that people write in several ways, and of the commonest slips of the finger.
SPELLINGS = {
    "cant": r"(?:has|have|had)(?:nt| not) been able to|(?<!that )(?<!which )can ?not|unable to|not able to|couldnt|cnat|carnt",
    "wont": r"will not|wouldnt|refuses to",
    "dont": r"do not",
    "what": r"wot",
    "right now": r"rn",
    "you": r"u",
    "to": r"2(?= (?:take|have|give|drink|mix|use|stop|die))",
    "definitely": r"definately|definatly|defo",
    "ok": r"okay|alright|all right",
    "im": r"i am",
    "want to": r"wanna|wanted to|wants to|wanting to",
    "going to": r"gonna|gunna",
    "anymore": r"any more|any longer",
    "myself": r"my self|meself",
    "no one": r"noone|nobody",
    "sudden": r"suden|suddon",
    "accidentally": r"accidently|accidentaly|by accident|by mistake|mistakenly",
    "unconscious": r"unconcious|unconsious|unconcsious",
    "ld50": r"(?:median )?lethal dose (?:50|fifty)|median lethal dose",
    "seizure": r"siezure|seisure|seizur",
    "breathing": r"breating|brething|breathin",
    "suicide": r"suiside|sucide|suicde",
}
FIGURES_OF_SPEECH = re.compile(
    r"\b(?:suicide (?:prevention|awareness|statistics)|talk(?:s|ing)? (?:\w+ )?in (?:my|his|her) sleep|(?:lost|"
    r"losing) (?:\w+ ){1,3}to suicide|through (?:my|his|her|the) nose|shaving|"
    r"on the oven|playing (?:football|soccer|"
    r"tennis|basketball)|dying (?:to know|"
    r"of (?:laughter|curiosity|boredom|embarrassment)|laughing)|die (?:laughing|of embarrassment|for)|kill(?:ing)? (?:me with|time|it|"
    r"two birds)|to die for|killer|drop dead gorgeous|heart stopping|breathtaking|choking hazard|choking on my words|(?:i|we) choked up|"
    r"takes my breath|panic(?:king)? about (?:my )?(?:exam|test))\b"
)


def find(question: str) -> list[Finding]:
    """What the reader should be told before the answer to a question; at most one finding of each kind, the gravest first."""
    text = _plain(question)
    found: list[Kind] = []
    if _is_emergency(text):
        found.append("emergency")
    harm = _is_self_harm(text)
    if harm:
        found.append("self_harm")
    if not found and _is_personal_dosing(text):
        found.append("dosing")
    return [Finding(kind, NOTICES[kind], withholds=kind == "self_harm" and any(_spans(METHOD, text))) for kind in found]


def _is_emergency(text: str) -> bool:
    urgent = bool(re.search(r"\b(?:right now|as we speak|help me|please help|not for (?:an exam|school|class)|ambulance)\b", text))
    if (_is_lesson(text) or PATIENTS.search(text)) and not urgent:
        return False
    if VIGNETTE.search(text) and not NEAR_ME.search(text):
        return False
    if not _is_somebody(_ASKER.sub("", text)) and (not (URGENT.search(text) or NOW.search(text)) or GENERAL.search(text)):
        return False
    return any(_happens(text, start, end) for start, end in _spans(EMERGENCIES, text))


def _is_self_harm(text: str) -> bool:
    if _is_lesson(text) or PATIENTS.search(text):
        return False
    for start, end in _spans(SELF_HARM, text):
        sentence = _around(text, start, end, _SENTENCE)
        supposed = _is_supposed(sentence) and not re.search(r"\b(?:im|ive|my|me|myself|i (?:want|hurt|cut|feel|think|get))\b", sentence)
        own = re.search(r"\b(?:i|im|ive|me|myself|whats the (?:point|use))\b", sentence)
        over = _is_over(text, start, end) and not re.search(r"\b(?:i|im|ive|myself)\b", PAST.sub("", _CLAUSE.split(sentence)[0]))
        general = _is_general(sentence) and not own
        if _is_somebody(sentence) and not (general or supposed or over or FIGURES_OF_SPEECH.search(sentence)):
            return True
    return any(_spans(METHOD, text))


def _is_personal_dosing(text: str) -> bool:
    if _is_lesson(text) or PATIENTS.search(text) or (VIGNETTE.search(text) and not NEAR_ME.search(text)):
        return False
    for start, end in _spans(DOSES, text):
        sentence = _around(text, start, end, _SENTENCE)
        general = (GENERAL.search(sentence) and not _PERSONAL.search(sentence)) or MECHANISM.search(sentence)
        if MEDICINE.search(text) and (_PERSONAL.search(text) or DROPPED_I.search(text)) and not (general or SUPPOSED.search(sentence)):
            return True
    return False


def _is_somebody(text: str) -> bool:
    return bool(SOMEBODY.search(text) or DROPPED_I.search(text))


# Who asks is not who is ill: "what do I give", "am I looking for".
_ASKER = re.compile(
    r"\b(?:do|am|should|can|would|could|must|did|shall|will) i (?!having|dying|going to die|bleeding|choking)|"
    r"\bi (?:expect|prescribe|order|request|use|check)\b"
)
_PERSONAL = re.compile(
    r"\b(?:ok|am i|accidentally|for me|too soon|safe$|safe(?=\?)|how many (?!mg|milligrams|grams|people|doses|"
    r"patients)\w+(?: \w+)? (?:in )?(?:a|per) day|"
    r"(?:can|could|for|give|to) (?:an?|the) (?:\d+ ?kg )?\d* ?(?:mo|month|yr|year|toddler|baby|week)|"
    rf"i|im|ive|me|my|myself|we|our|(?:should|can|could|may|would|does|has|give|for) (?:{_KIN}))\b"
)
MECHANISM = re.compile(
    r"\b(?:prescription|visa|enzymes?|side effects?|invented|discovered|mean|work for (?:most|all)|half life|mechanism|pharmacokinetics|"
    r"physiology)\b|"
    r"(?:^|[.!?] )(?:why|how (?:do|does) (?!i |we |my |you ))"
)
_SENTENCE = re.compile(r"[.!?;\n]+(?= |$)|\n")
_CLAUSE = re.compile(r"[.!?;\n]+(?= |$)|\n|,|\b(?:and|but|now)\b")
# Letters over which groups of one rule may be spread: some twenty words.
REACH = 100
# Places of one group that are looked at, so that a long text costs little.
MOST_PLACES = 12


def _happens(text: str, start: int, end: int) -> bool:
    sentence = _around(text, start, end, _SENTENCE)
    if DENIED.search(text[max(0, start - 60) : start]) or FIGURES_OF_SPEECH.search(sentence):
        return False
    return not (_is_general(sentence) or _is_supposed(sentence) or _is_over(text, start, end))


def _is_lesson(text: str) -> bool:
    return bool(LESSON.search(OWN_CHILD.sub("mine", text)))


def _is_general(sentence: str) -> bool:
    return bool(GENERAL.search(sentence) and not OWN.search(sentence))


def _is_supposed(sentence: str) -> bool:
    return bool(SUPPOSED.search(sentence) and not re.search(r"\b(?:right now|now|just)\b", sentence))


def _is_over(text: str, start: int, end: int) -> bool:
    if not PAST.search(_around(text, start, end, _SENTENCE)):
        return False
    clause = _around(text, start, end, _CLAUSE)
    return bool(PAST.search(clause)) or not (PRESENT.search(clause) or NOW.search(clause))


def _around(text: str, start: int, end: int, border: re.Pattern[str]) -> str:
    """The sentences or clauses that a match lies in."""
    borders = [0, *(match.end() for match in border.finditer(text)), len(text)]
    return text[max(place for place in borders if place <= start) : min(place for place in borders if place >= end)].strip()


def _plain(question: str) -> str:
    """Lower case without accents and apostrophes, hyphens as spaces, and no roman I that is a number."""
    letters = "".join(letter for letter in unicodedata.normalize("NFKD", question) if not unicodedata.combining(letter))
    text = re.sub(r"[\u2019\u2018`]", "'", letters.lower())
    text = re.sub(rf"\b({_KIN})'s\b", r"\1 is", text).replace("'", "")
    text = re.sub(r"[-\u2010-\u2014/]", " ", text)
    for usual, spelling in SPELLINGS.items():
        text = re.sub(rf"\b(?:{spelling})\b", usual, text)
    text = re.sub(r"\b(type|class|grade|stage|phase|factor|axis|mobitz|group|angiotensin|complex|hepatitis) i\b", r"\1 one", text)
    text = re.sub(r"\b(?:tell|give|remind|show|teach|help) me (?=what|which|how|why|when|the|about|understand|all|a list|some)", "", text)
    return re.sub(r"[ \t]+", " ", text).strip()


@cache
def _rules(source: str) -> list[list[re.Pattern[str]]]:
    lines = [line for line in re.sub(r"\n +", " ", re.sub(r"\|\n +", "|", source)).strip().splitlines() if not line.startswith("#")]
    return [[_group(group) for group in line.split(" & ")] for line in lines]


_CLASSES = dict(line.split(" = ") for line in re.sub(r"\|\n +", "|", re.sub(r"\n +", " ", CLASSES)).strip().splitlines())
_SHORTHAND = {
    "_drug_": MEDICINE.pattern.removeprefix(r"\b").removesuffix(r"\b"),
    "_many_": (
        r"(?:[1-9]\d+|dozens?|ten|fifteen|twenty|thirty|forty|fifty|sixty) (?!mg|mcg|ml|units|iu|puffs|drops|g |cc)(?:\w+ ){0,3}?"
        r"(?:pills|tablets|tabs|caps|capsules|tylenols?|paracetamols?|ibuprofens?|aspirins?|advils?|xanax|\w{6,}s)"
    ),
}


def _group(words: str) -> re.Pattern[str]:
    for name, members in _CLASSES.items():
        words = words.replace(name, members)
    parts = [_SHORTHAND.get(word.strip()) or _literal(word.strip()) for word in words.split("|")]
    return re.compile(rf"\b(?:{'|'.join(parts)})(?!\w)")


def _literal(word: str) -> str:
    pattern = re.escape(word).replace(r"\ \.\.\.\ ", r" (?:\w+ ){0,3}").replace(r"\*", r"\w*").replace(r"\#", r"\d")
    pattern = re.sub(r"\\\[(.*?)\\\]", lambda digits: f"[{digits[1]}]", pattern)
    return re.sub(r"^not\\ ", "(?:not|isnt|arent|aint) ", pattern)


def _spans(source: str, text: str) -> Iterator[tuple[int, int]]:
    """Where a rule matches: one word of each of its groups, near one another."""
    for groups in _rules(source):
        places: list[list[tuple[int, int]]] = []
        for group in groups:
            if not (found := [match.span() for match in group.finditer(text)][:MOST_PLACES]):
                break
            places.append(found)
        if len(places) < len(groups):
            continue
        for chosen in product(*places):
            start, end = min(place[0] for place in chosen), max(place[1] for place in chosen)
            if end - start <= REACH and _apart(chosen):
                yield start, end


def _apart(places: tuple[tuple[int, int], ...]) -> bool:
    order = sorted(places)
    return all(before[1] <= after[0] for before, after in pairwise(order))
